# SPDX-License-Identifier: Apache-2.0
"""How fast the parsers are: a console of any size, what is measured on it, and another parser beside ours."""
