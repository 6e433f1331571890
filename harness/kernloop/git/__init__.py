# SPDX-License-Identifier: Apache-2.0
"""Work on git histories: the search for the commit, or the configuration symbol, that made something fail."""
