"""What torch's NCCL backend and NCCL itself log.

Source: torch/csrc/distributed/c10d/ProcessGroupNCCL.cpp and NCCLUtils.cpp (1.13 to 2.13), NCCL's src/transport.
"""

from __future__ import annotations

from torchctl.logs.pattern import Pattern

_TORCH = "ProcessGroupNCCL.cpp"
_NCCL = "NCCL"
# [Rank 3], [PG 5 Rank 3], [PG ID 5 PG GUID 5(ep) Rank 3]
SELF = (
    r"(?:\[PG (?:ID )?(?P<id>\d{1,9})(?: PG GUID (?P<guid>[^\s(\]]{1,200})(?:\((?P<desc>[^)\]]{0,200})\))?)?"
    r"(?: \((?P<old>[^)\]]{0,200})\))? |\[)Rank (?P<rank>\d{1,6})\]"
)
_WORK = r"(?:NCCL )?work"

PATTERNS = (
    Pattern(
        "watchdog_timeout",
        "hang",
        ("Watchdog caught",),
        rf"{SELF} {{1,2}}Watchdog caught collective operation timeout: WorkNCCL\((?:SeqNum=(?P<seq>\d{{1,12}}), )?"
        r"OpType=(?P<op>\w{1,60}),(?: (?P<sizes>.{0,400}?),)? Timeout\(ms\)=(?P<timeout>\d{1,12})\)"
        r"(?: ran for (?P<ran>\d{1,12}) milliseconds)?",
        "its watchdog gave up on a collective",
        "[rank3]:[E1126 13:42:07.1 ProcessGroupNCCL.cpp:689] [Rank 3] Watchdog caught collective operation timeout:"
        " WorkNCCL(SeqNum=1580, OpType=ALLREDUCE, NumelIn=64, NumelOut=64, Timeout(ms)=600000) ran for 600021"
        " milliseconds before timing out.",
        "1.13",
        _TORCH,
    ),
    Pattern(
        "watchdog_stuck",
        "hang",
        ("watchdog got stuck",),
        rf"{SELF} .{{0,60}}watchdog got stuck for (?P<seconds>\d{{1,9}}) seconds",
        "its watchdog made no progress itself: a CUDA or NCCL call hangs, or the interpreter lock is held",
        "[PG ID 0 PG GUID 0(default_pg) Rank 1] ProcessGroupNCCL's watchdog got stuck for 480 seconds without making"
        " progress in monitoring enqueued collectives.",
        "2.2",
        _TORCH,
    ),
    Pattern(
        "dump_signal",
        "hang",
        ("dump signal", "timeout signal"),
        rf"{SELF} .{{0,40}}(?:dump|timeout) signal (?:due to a collective timeout )?from (?:this local rank| ?rank"
        r" (?P<about>\d{1,6}))(?:.{0,120}?[Ll]ast enqueued (?:NCCL )?work: (?P<enqueued>-?\d{1,12}), last completed"
        r" (?:NCCL )?work: (?P<completed>-?\d{1,12}))?",
        "it writes a dump because a rank timed out, itself or another",
        "[PG ID 0 PG GUID 0(default_pg) Rank 0] Received a dump signal due to a collective timeout from  rank 13 and"
        " we will try our best to dump the debug info. Last enqueued NCCL work: 1261, last completed NCCL work: 1259.",
        "2.4",
        _TORCH,
    ),
    Pattern(
        "pg_status",
        "hang",
        ("nqueued work", "nqueued NCCL work"),
        rf"{SELF} .{{0,300}}?[Ll]ast enqueued {_WORK}: (?P<enqueued>-?\d{{1,12}}), last completed {_WORK}:"
        r" (?P<completed>-?\d{1,12})",
        "the last work that it enqueued and completed",
        "[PG ID 0 PG GUID 0(default_pg) Rank 3]  failure detected by watchdog at work sequence id: 7219 PG status:"
        " last enqueued work: 7220, last completed work: 7218",
        "2.2",
        _TORCH,
    ),
    Pattern(
        "dump_written",
        "context",
        ("debug info to",),
        r"(?:Finished writing|Writing) (?:Flight Recorder|NCCLPG) debug info to:? {0,2}(?P<path>/\S{1,1000})",
        "where it wrote its dump",
        "[E1126 13:42:09.1 FlightRecorder.cpp:90] Finished writing Flight Recorder debug info to /tmp/nccl_trace_3",
        "2.2",
        "FlightRecorder.cpp",
    ),
    Pattern(
        "duplicate_gpu",
        "launcher",
        ("Duplicate GPU detected",),
        r"Duplicate GPU detected : rank (?P<first>\d{1,6}) and rank (?P<second>\d{1,6}) both on CUDA device"
        r" (?P<device>\w{1,20})",
        "two ranks use the same device",
        "node1:411:411 [0] NCCL WARN Duplicate GPU detected : rank 1 and rank 0 both on CUDA device 3b000",
        "",
        _NCCL,
    ),
    Pattern(
        "nccl_device",
        "device_error",
        ("Cuda failure",),
        r"NCCL WARN (?:\[\w{1,20}\] )?Cuda failure (?:\d{1,5} )?'(?P<what>[^']{1,200})'",
        "a CUDA call in NCCL failed",
        "node1:411:702 [0] enqueue.cc:1029 NCCL WARN Cuda failure 700 'an illegal memory access was encountered'",
        "",
        _NCCL,
    ),
    Pattern(
        "nccl_ib",
        "device_error",
        ("NET/IB",),
        r"NET/IB ?: ?.{0,80}?(?:Got completion|got completion)(?: from peer (?P<peer>\S{1,100}))?.{0,60}?with"
        r" (?:error|status=(?P<status>\w{1,40}))",
        "an InfiniBand transfer failed: the link, or its peer has ended",
        "node1:411:702 [0] transport/net_ib.cc:1295 NCCL WARN NET/IB : Got completion from peer 10.0.0.2<41000> with"
        " status=12 opcode=0 len=0 vendor err 129",
        "",
        _NCCL,
        weak=True,
    ),
    Pattern(
        "nccl_peer_closed",
        "victim",
        ("NCCL WARN",),
        r"NCCL WARN .{0,80}?(?:Connection closed by remote peer|Connection reset by peer|Broken pipe|remote process"
        r" exited)(?: (?P<peer>\S{1,100}))?",
        "a peer closed its connection",
        "node1:411:702 [0] misc/socket.cc:49 NCCL WARN socketProgress: Connection closed by remote peer node2<41000>",
        "",
        _NCCL,
    ),
    Pattern(
        "nccl_refused",
        "launcher",
        ("NCCL WARN",),
        r"NCCL WARN .{0,200}?(?:Connection refused|No route to host|Connection timed out|Network is unreachable)",
        "NCCL cannot reach a peer",
        "node1:411:702 [0] misc/socket.cc:467 NCCL WARN socketStartConnect: Connect to 10.0.0.2<41000> failed :"
        " No route to host",
        "",
        _NCCL,
        weak=True,
    ),
    Pattern(
        "nccl_remote",
        "victim",
        ("ncclRemoteError", "remote process exited"),
        r"ncclRemoteError|remote process exited or there was a network error",
        "NCCL lost a peer",
        "torch.distributed.DistBackendError: NCCL error in: ProcessGroupNCCL.cpp:1970, remote process exited or there"
        " was a network error, NCCL version 2.21.5",
        "1.13",
        "NCCLUtils.cpp",
    ),
    Pattern(
        "nccl_id_wait",
        "launcher",
        ("ncclUniqueId",),
        r"\[(?P<rank>\d{1,6})\] is setting up NCCL communicator and retrieving ncclUniqueId from \[(?P<about>\d{1,6})\]"
        r" via c10d key-value store by key '(?P<key>[^']{1,100})'",
        "it waited for the rank that makes the communicator's id",
        "DistBackendError: [3] is setting up NCCL communicator and retrieving ncclUniqueId from [0] via c10d key-value"
        " store by key '0', but store->get('0') got error: Socket Timeout",
        "1.13",
        _TORCH,
        weak=True,
    ),
    Pattern(
        "nccl_aborted",
        "victim",
        ("ommunicator was aborted", "taking the entire process down", "NCCL operations have failed"),
        r"ommunicator was aborted|taking the entire process down|NCCL operations have failed or timed out",
        "torch aborts it after an error or a timeout of NCCL",
        "[E ProcessGroupNCCL.cpp:842] [Rank 3] To avoid data inconsistency, we are taking the entire process down.",
        "1.13",
        _TORCH,
    ),
    Pattern(
        "nccl_error",
        "failed",
        (
            "NCCL error in",
            "ncclSystemError",
            "ncclInternalError",
            "ncclUnhandledCudaError",
            "ncclInvalidUsage",
            "ncclInvalidArgument",
        ),
        r"NCCL error in|(?P<what>nccl(?:SystemError|InternalError|UnhandledCudaError|InvalidUsage|InvalidArgument))",
        "NCCL failed; NCCL_DEBUG=WARN prints why",
        "torch.distributed.DistBackendError: NCCL error in: ProcessGroupNCCL.cpp:1970, unhandled system error, NCCL"
        " version 2.21.5 ncclSystemError: System call (e.g. socket, malloc) or external library call failed",
        "1.13",
        "NCCLUtils.cpp",
        weak=True,
    ),
)
