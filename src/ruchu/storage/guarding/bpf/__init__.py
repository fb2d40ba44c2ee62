"""Programs for the kernel's BPF LSM, where it is active: a last word on every change.

Everything is made at run time, from the kernel's own description of its structures: no compiler,
no library, no file that depends on the release of the kernel.
"""
