"""Find workers and ask them. The terms of this package:

target      what the operator typed: --socket, --nodes and so on: `targets.Targets`
endpoint    the address of one worker, or of a host whose relay asks the workers there: `endpoint.Endpoint`
roll        the endpoints that the targets resolve to, looked up once by `find/`: `roll.Roll`
request     one HTTP request to a worker: `ask.question.Request`
reply       what a worker sends back, whatever its status: `ask.reply.Reply`
question    a conversation with one worker that ends in a value; it handles requests and replies, not transports:
            `ask.question.Question`, all of them in `questions/`
transport   how bytes travel: urllib3 for one worker, an asyncio loop for many, py-spy for a process without a server,
            relays for other hosts. Each is an `ask.transport.Transport`, and only `ask.fanout` picks one
outcome     the result of asking one worker, a value or a typed failure: `ask.outcome.Outcome`
survey      one question to a whole roll, and the results: `survey.Survey`
roll call   which ranks of the job are missing, duplicated or stale: `rollcall`
"""
