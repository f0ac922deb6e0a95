"""Whom to ask and how. The words of this family, each one thing:

target      what the operator typed, --socket, --nodes and the like: `targets.Targets`
endpoint    where one worker is, or a host whose relay asks the workers there: `endpoint.Endpoint`
roll        the endpoints that the targets lead to, looked up once by `find/`: `roll.Roll`
request     one HTTP request to a worker: `ask.question.Request`
reply       what a worker sends back, whatever its status: `ask.reply.Reply`
question    a conversation with one worker that ends in a value; it knows requests and replies and no transport:
            `ask.question.Question`, all of them in `questions/`
transport   how bytes travel: urllib3 for one worker, an asyncio loop for many, py-spy for a process without a server,
            relays for other hosts. Each is an `ask.transport.Transport`, and only `ask.fanout` picks one
outcome     what came of asking one worker, its value or a typed failure: `ask.outcome.Outcome`
survey      one question to a whole roll, and what came of it: `survey.Survey`
roll call   who of the job is missing, who is there twice, or from another time: `rollcall`
"""
