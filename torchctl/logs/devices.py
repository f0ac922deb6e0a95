"""What CUDA, the driver and allocators say of a device, and of memory.

Source: c10/cuda/CUDACachingAllocator.cpp and CUDAException.cpp (1.13 to 2.13), the driver's messages in dmesg.
"""

from __future__ import annotations

from torchctl.logs.pattern import Pattern

_CUDA = "CUDAException.cpp"

PATTERNS = (
    Pattern(
        "cuda_oom",
        "out_of_memory",
        ("out of memory. Tried",),
        r"(?:CUDA|HIP|XPU|NPU) out of memory\. Tried to allocate (?P<size>[\d.]{1,12} \w{1,5})(?:.{0,20}?GPU"
        r" (?P<device>\d{1,3}))?",
        "its device has no memory left",
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 3 has a total capacity of 79.10"
        " GiB of which 1.02 GiB is free.",
        "1.13",
        "CUDACachingAllocator.cpp",
    ),
    Pattern(
        "invalid_device",
        "launcher",
        ("invalid device ordinal",),
        r"CUDA error: invalid device ordinal",
        "it uses a device that its node does not have: more ranks than devices, or CUDA_VISIBLE_DEVICES",
        "RuntimeError: CUDA error: invalid device ordinal",
        "1.13",
        _CUDA,
    ),
    Pattern(
        "device_assert",
        "device_error",
        ("Assertion `", "device-side assert"),
        r"\.cuh?:\d{1,6}: .{0,300}: block: \[.{0,60}Assertion `(?P<what>.{1,200}?)[`'] failed|device-side assert"
        r" triggered",
        "an assertion in a kernel failed: an index out of range, most often",
        "/pytorch/aten/src/ATen/native/cuda/Indexing.cu:1290: indexSelectLargeIndex: block: [12,0,0], thread: [0,0,0]"
        " Assertion `srcIndex < srcSelectDimSize` failed.",
        "1.13",
        "ATen",
    ),
    Pattern(
        "ecc",
        "device_error",
        ("uncorrectable ECC", "Uncorrectable ECC"),
        r"[Uu]ncorrectable ECC error",
        "its device's memory is damaged",
        "RuntimeError: CUDA error: uncorrectable ECC error encountered",
        "1.13",
        _CUDA,
    ),
    Pattern(
        "cuda_error",
        "device_error",
        ("CUDA error: ", "HIP error: "),
        r"(?:CUDA|HIP) error: (?P<what>[^.(]{1,120})",
        "a call of CUDA failed, of this or of an earlier kernel",
        "RuntimeError: CUDA error: an illegal memory access was encountered",
        "1.13",
        _CUDA,
    ),
    Pattern(
        "xid_aftermath",
        "context",
        ("NVRM: Xid",),
        r"NVRM: Xid \(PCI:(?P<pci>[\w:.]{1,20})\): (?P<xid>43|45|63|92|94), ",
        "the driver cleaned up after a process, or mended its memory",
        "[ 8123.1] NVRM: Xid (PCI:0000:3b:00): 45, pid=4011, name=python, Ch 00000008",
        "",
        "NVIDIA's driver",
    ),
    Pattern(
        "xid",
        "device_error",
        ("NVRM: Xid",),
        r"NVRM: Xid \(PCI:(?P<pci>[\w:.]{1,20})\): (?P<xid>\d{1,4})(?:, pid='?(?P<pid>\d{1,10}))?(?P<what>.{0,200})",
        "the driver reports an error of a device",
        "[ 8123.1] NVRM: Xid (PCI:0000:3b:00): 79, pid=4011, name=python, GPU has fallen off the bus.",
        "",
        "NVIDIA's driver",
    ),
    Pattern(
        "host_alloc",
        "out_of_memory",
        ("can't allocate memory", "Cannot allocate memory", "MemoryError"),
        r"DefaultCPUAllocator: (?:not enough memory|can't allocate memory)|Cannot allocate memory|\bMemoryError\b",
        "its host has no memory left",
        "RuntimeError: [enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory: you"
        " tried to allocate 64000000000 bytes. Error code 12 (Cannot allocate memory)",
        "1.13",
        "alloc_cpu.cpp",
    ),
    Pattern(
        "shared_memory",
        "out_of_memory",
        ("shared memory",),
        r"insufficient shared memory|out of shared memory",
        "/dev/shm is full: a DataLoader's workers share tensors there",
        "RuntimeError: DataLoader worker (pid 4020) is killed by signal: Bus error. It is possible that dataloader's"
        " workers are out of shared memory. Please try to raise your shared memory limit.",
        "1.13",
        "torch/utils/data",
    ),
    Pattern(
        "loader_killed",
        "killed",
        ("is killed by signal", "exited unexpectedly"),
        r"DataLoader worker \(pid\(?s?\)? (?P<worker>\d{1,10})[\d, ]{0,200}\)"
        r" (?:is killed by signal: (?P<signal>[A-Za-z ]{1,30})|exited unexpectedly)",
        "a worker process of its DataLoader was killed",
        "RuntimeError: DataLoader worker (pid 4020) is killed by signal: Killed.",
        "1.13",
        "torch/utils/data",
    ),
    Pattern(
        "nan",
        "context",
        ("loss is nan", "loss is NaN", "loss: nan", "loss=nan"),
        r"(?i)loss(?: is|:|=) ?nan",
        "its loss is not a number",
        "step 1200 loss: nan",
        "",
        "training scripts",
    ),
)
