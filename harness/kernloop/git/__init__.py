# SPDX-License-Identifier: Apache-2.0
"""Work on git histories that leaves the user's checkout alone: search, series, patches."""
