# SPDX-License-Identifier: Apache-2.0
"""Static checks of a compiled scheduler: the usual mistakes that the BPF verifier lets through.

`check.check(obj)` walks every program of the object (`walk.py`: all ways, with what is known of values on each) and
asks the rules (`rules_*.py`; their texts are data/sched_rules.toml) what is wrong with it.
"""
