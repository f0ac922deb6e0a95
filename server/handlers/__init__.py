"""The handlers that every worker offers; importing this package registers them."""

from torchctl.server.handlers import calls, digest, info, ping, profile, pyspy, traceback, traces
from torchctl.server.refusal import answering
from torchctl.server.registry import register_handler

register_handler("ping", ping.ping, costly=False)
register_handler("info", info.info, costly=False)
register_handler("dump_traceback", answering(traceback.dump_traceback), costly=False)
register_handler("calls", answering(calls.calls), costly=False)
register_handler("pyspy_dump", answering(pyspy.pyspy_dump))
register_handler("torch_profile", answering(profile.torch_profile))
register_handler("wait_counter_values", answering(traces.wait_counter_values), costly=False)
register_handler("fr_trace_pickle", answering(traces.fr_trace_pickle), costly=False)
register_handler("fr_trace_json", answering(traces.fr_trace_json), costly=False)
register_handler("fr_digest", answering(digest.fr_digest), costly=False)
register_handler("dump_nccl_trace_pickle", answering(traces.dump_nccl_trace_pickle), costly=False)
register_handler("dump_nccl_trace_json", answering(traces.dump_nccl_trace_json), costly=False)
