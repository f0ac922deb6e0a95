"""What torch logs besides NCCL: gloo, stores, the comparison of DETAIL mode, DDP, monitored barriers.

Source: torch/csrc/distributed/c10d (ProcessGroupGloo, ProcessGroupWrapper, TCPStore, socket, reducer) and
torch/distributed/distributed_c10d.py, 1.13 to 2.13; gloo/transport/tcp.
"""

from __future__ import annotations

from torchctl.logs.pattern import Pattern

PATTERNS = (
    Pattern(
        "barrier_failed",
        "hang",
        ("failed to pass monitoredBarrier",),
        r"\[Rank (?P<rank>\d{1,6})\]: Ranks? (?P<ranks>\d{1,6}(?:, \d{1,6}){0,9999}) failed to pass monitoredBarrier",
        "who checks a monitored barrier names the ranks that did not pass",
        "[E ProcessGroupGloo.cpp:138] [Rank 0]: Rank 2 failed to pass monitoredBarrier in 30000 ms",
        "1.13",
        "ProcessGroupGloo.cpp",
    ),
    Pattern(
        "barrier_other",
        "victim",
        ("successfully reached monitoredBarrier",),
        r"Rank (?P<rank>\d{1,6}) successfully reached monitoredBarrier, but received errors",
        "it passed a monitored barrier that failed elsewhere; rank 0 knows where",
        "[E ProcessGroupGloo.cpp:138] Rank 1 successfully reached monitoredBarrier, but received errors while waiting"
        " for send/recv from rank 0. Please check rank 0 logs for faulty rank.",
        "1.13",
        "ProcessGroupGloo.cpp",
    ),
    Pattern(
        "detail_mismatch",
        "hang",
        ("CollectiveFingerPrint",),
        r"Rank (?P<rank>\d{1,6}) is running collective: CollectiveFingerPrint\(",
        "ranks made different calls, as TORCH_DISTRIBUTED_DEBUG=DETAIL compares them",
        "RuntimeError: Detected mismatch between collectives on ranks. Rank 1 is running collective:"
        " CollectiveFingerPrint(SequenceNumber=4, OpType=ALLREDUCE, TensorShape=[8], TensorDtypes=Float,"
        " TensorDeviceTypes=T(x)), but Rank 2 is running collective: CollectiveFingerPrint(SequenceNumber=4,"
        " OpType=BARRIER).",
        "1.13",
        "ProcessGroupWrapper.cpp",
    ),
    Pattern(
        "gloo_closed",
        "victim",
        ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "Socket closed"),
        r"(?:Connection closed by peer|Connection reset by peer|Broken pipe|Socket closed)(?: (?P<peer>\[\S{1,60}))?",
        "a peer closed its connection",
        "RuntimeError: [/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer"
        " [10.0.0.2]:41000",
        "1.13",
        "gloo, TCPStore",
    ),
    Pattern(
        "gloo_timeout",
        "failed",
        ("Timed out waiting", "Application timeout"),
        r"gloo/.{0,200}(?:Timed out waiting (?P<ms>\d{1,12})ms for (?P<what>\w{1,12}) operation|Application timeout)",
        "a peer did not send or receive within gloo's timeout",
        "RuntimeError: [/pytorch/third_party/gloo/gloo/transport/tcp/unbound_buffer.cc:81] Timed out waiting 1800000ms"
        " for recv operation to complete",
        "1.13",
        "gloo",
        weak=True,
    ),
    Pattern(
        "gloo_connect",
        "launcher",
        ("connectFullMesh failed",),
        r"Gloo connectFullMesh failed with (?P<what>.{0,200})",
        "gloo cannot reach the other ranks; GLOO_SOCKET_IFNAME picks the interface",
        "RuntimeError: Gloo connectFullMesh failed with [../third_party/gloo/gloo/transport/tcp/pair.cc:144] no error",
        "1.13",
        "ProcessGroupGloo.cpp",
        weak=True,
    ),
    Pattern(
        "port_taken",
        "launcher",
        ("failed to listen on any", "EADDRINUSE", "Address already in use", "address already in use"),
        r"failed to listen on any local network address|EADDRINUSE|[Aa]ddress already in use",
        "its port is in use: another job, or a process left over from an earlier run",
        "torch.distributed.DistNetworkError: The server socket has failed to listen on any local network address. port:"
        " 29500, useIpv6: false, code: -98, name: EADDRINUSE, message: address already in use",
        "1.13",
        "socket.cpp",
    ),
    Pattern(
        "store_unreachable",
        "launcher",
        ("client socket has", "failed to connect/validate"),
        r"client socket has (?:timed out after .{1,40} while trying|failed) to connect to (?:any network address of )?"
        r"\(?(?P<where>[^\s,)]{1,255}(?:, \d{1,5}|:\d{1,5})?)|failed to connect/validate to host (?P<host>\S{1,262})"
        r" - timed out",
        "it cannot reach the store: its address, a firewall, or the rank that hosts it did not start",
        "torch.distributed.DistNetworkError: The client socket has timed out after 60000ms while trying to connect to"
        " (node1, 29500).",
        "1.13",
        "socket.cpp, TCPStore.cpp",
        weak=True,
    ),
    Pattern(
        "store_clients",
        "launcher",
        ("waiting for clients",),
        r"Timed out after (?P<seconds>\d{1,9}) seconds waiting for clients\. (?P<joined>\d{1,9})/(?P<of>\d{1,9})"
        r" clients joined",
        "not all ranks came to the store: a node did not start, or the world size is wrong",
        "torch.distributed.DistStoreError: Timed out after 901 seconds waiting for clients. 3/4 clients joined.",
        "1.13",
        "TCPStore.cpp",
    ),
    Pattern(
        "store_barrier",
        "launcher",
        ("store based barrier",),
        r"Timed out initializing process group in store based barrier on rank:? (?P<rank>\d{1,6}), for key:"
        r" (?P<key>\S{1,200}) \(world_size=(?P<of>\d{1,9}), (?:num_workers_joined|worker_count)=(?P<joined>\d{1,9})",
        "not all ranks came to init_process_group or new_group",
        "torch.distributed.DistStoreError: Timed out initializing process group in store based barrier on rank 1, for"
        " key: store_based_barrier_key:1 (world_size=4, num_workers_joined=3, timeout=0:30:00 error=wait timeout)",
        "1.13",
        "distributed_c10d.py",
    ),
    Pattern(
        "store_timeout",
        "failed",
        ("wait timeout after", "Socket Timeout"),
        r"wait timeout after (?P<ms>\d{1,12})ms, keys: (?P<key>\S{1,400})|Socket Timeout",
        "it waited in vain for a key of the store, which another rank should have set",
        "torch.distributed.DistStoreError: wait timeout after 300000ms, keys: /default_pg/0//cuda//timeout_dump",
        "1.13",
        "TCPStore.cpp",
        weak=True,
    ),
    Pattern(
        "store_lost",
        "victim",
        ("Connection was likely closed", "recvValue", "sendBytes failed"),
        r"Connection was likely closed|recvValue(?:WithTimeout)? failed|sendBytes failed",
        "it lost the store: the rank or agent that hosts it has ended",
        "[W1126 13:42:09.1 TCPStore.cpp:125] [c10d] recvValue failed on SocketImpl(fd=64, addr=[node1]:41000): Failed"
        " to recv, got 0 bytes. Connection was likely closed. Did the remote server shutdown or crash?",
        "2.0",
        "TCPStore.cpp",
    ),
    Pattern(
        "ddp_unfinished",
        "failed",
        ("finished reduction in the prior iteration",),
        r"Expected to have finished reduction in the prior iteration",
        "its loss does not use all parameters, so DDP's reduction did not finish (find_unused_parameters=True)",
        "RuntimeError: Expected to have finished reduction in the prior iteration before starting a new one.",
        "1.13",
        "reducer.cpp",
    ),
)
