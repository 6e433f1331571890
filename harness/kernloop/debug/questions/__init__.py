# SPDX-License-Identifier: Apache-2.0
"""Questions that every debugger can be asked, in one shape, whoever answers."""
