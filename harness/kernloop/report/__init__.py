# SPDX-License-Identifier: Apache-2.0
"""What a kernel, a scheduler, the BPF verifier and a compiler said, as records; imports nothing else of ours."""
