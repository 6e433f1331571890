# SPDX-License-Identifier: Apache-2.0
"""A compiled scheduler as data for static checks: what is in the object, and what a kernel makes of it.

- `model.py`: the data. `load.load(path) -> SchedObject` reads it, `btf.py` the types in it and of a kernel.
- `kernel.py`: `KernelTypes`, what a target kernel has: kfuncs, members of sched_ext_ops, enum values.
- `world.py`: `World`, an object beside a kernel: which externs are there, what CO-RE patches.
"""
