# SPDX-License-Identifier: Apache-2.0
"""sched_ext as it is in a guest's memory: schedulers, queues, tasks and CPUs, without asking the guest.

Members and enumerators are looked for by name, for they come, go and move between releases: 6.12 has one scheduler in
variables of kernel/sched/ext.c, 6.16 and later struct scx_sched, 7.x several of them (kernel/sched/ext/ext.c).
"""
