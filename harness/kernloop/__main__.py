# SPDX-License-Identifier: Apache-2.0
"""Run the command line as `python -m kernloop`."""

from kernloop.cli.main import main

main()
