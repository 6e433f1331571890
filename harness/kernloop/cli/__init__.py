# SPDX-License-Identifier: Apache-2.0
"""The command line: thin typer commands over the library."""
