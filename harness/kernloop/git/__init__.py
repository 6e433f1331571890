# SPDX-License-Identifier: Apache-2.0
"""Work with git that leaves the user's checkout alone until it is known to be right."""
