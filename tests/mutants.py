"""Wrong wrappings, built into a copy of the package one by one: the suite must notice each of them.

    python -m tests.mutants [--line N] [--jobs N] [NAME ...]

Copies package and tests to a temporary directory, runs the tests named below there, which must pass, then makes one
change after the other and runs the test that must fail. Prints what caught each mutant; ends with 1 if one survives, or
if the text that it replaces is not found exactly once, so that this table cannot rot. A NAME picks the mutants whose
name contains it; `--line` insists on the SDK line that is installed.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from time import perf_counter

from tests.wire import LINE_1

HERE = Path(__file__).resolve().parent.parent
LINE = 1 if LINE_1 else 2
SECONDS = 60.0
"""Within which a test must notice a mutant. One that hangs until then notices nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    """One mistake."""

    name: str
    """What goes wrong."""
    old: str
    """Whole lines of the package, however indented and without comments at their end, that occur once in it. The code
    of the other SDK line, in files whose names end in its number, is not searched."""
    new: str
    """What stands there instead, indented to fit. `{old}` is the old lines."""
    caught_by: str
    """The test function that must fail, wherever it stands."""
    only: str = "not trio"
    """Which of its cases, as for `pytest -k`: one event loop will do."""
    lines: tuple[int, ...] = (1, 2)
    """The SDK lines that it is a mistake on."""


# Where all that is sent and received passes, what only one of both passes, and what only requests pass.
CHAIN_END = "invocation.result = result = await invocation.send(context)"
SEND_REQUEST = "result = await chain(call, context)"
TRANSMIT = "answer = self.below.send_request(request, result_type, **options)"
NO_CHAIN = "arguments = (request, result_type, request_read_timeout_seconds, metadata, progress_callback)"
MESSAGE = "request, timeout = self.message, self.timeout"
NOTIFY = "await self.interception.below.send_notification(message, *args, **kwargs)"
DELIVER = "return await self._deliver(params)"
WRITE = "await self.untapped.send(item)"
READ = "item = await self.untapped.__anext__()"

OUTGOING = [
    Mutant(
        name="_meta is dropped",
        old=MESSAGE,
        new="""
        {old}
        if getattr(self.params, "meta", None) is not None:
            request = line.with_params(request, self.params.model_copy(update={"meta": None}))
        """,
        caught_by="test_frames_and_results_are_those_of_a_bare_session",
        only="asyncio and call_tool and meta",
    ),
    Mutant(
        name="the progress callback is dropped",
        old='options["progress_callback"] = progress_callback',
        new="pass",
        caught_by="test_the_progress_of_a_call_is_reported_once_each_before_the_call_returns",
    ),
    Mutant(
        name="the progress callback is dropped where no middleware is",
        old=NO_CHAIN,
        new="arguments = (request, result_type, request_read_timeout_seconds, metadata, None)",
        caught_by="test_the_progress_of_a_call_is_reported_once_each_before_the_call_returns",
    ),
    Mutant(
        name="the progress callback is called in a task of its own",
        old="await self.callback(progress, total, message)",
        new="""
        import asyncio
        self.__class__.tasks = {asyncio.ensure_future(self.callback(progress, total, message))}
        """,
        caught_by="test_a_burst_and_the_response_after_it_keep_their_order",
        only="asyncio",
        lines=(1,),
    ),
    Mutant(
        name="the timeout is dropped",
        old='options["request_read_timeout_seconds"] = timeout',
        new="pass",
        caught_by="test_the_timeout_of_a_call_ends_it",
    ),
    Mutant(
        name="a timeout of nothing is taken for none",
        old="if timeout is not None:",
        new="if timeout:",
        caught_by="test_the_timeout_of_a_call_ends_it",
    ),
    Mutant(
        name="transport metadata is dropped",
        old='options["metadata"] = metadata',
        new="pass",
        caught_by="test_frames_and_results_are_those_of_a_bare_session",
        only="asyncio and everything and by and name",
    ),
    Mutant(
        name="headers are dropped",
        old="if options.headers:",
        new="if False:",
        caught_by="test_headers_of_a_call_reach_just_the_http_request_of_that_call",
    ),
    Mutant(
        name="errors are wrapped",
        old=CHAIN_END,
        new="""
        try:
            {old}
        except Exception as error:
            raise MiddlewareError(str(error)) from error
        """,
        caught_by="test_failures_are_those_of_a_bare_session",
    ),
    Mutant(
        name="errors lose where they came from",
        old=CHAIN_END,
        new="""
        try:
            {old}
        except Exception as error:
            raise error.with_traceback(None) from None
        """,
        caught_by="test_failures_are_those_of_a_bare_session",
    ),
    Mutant(
        name="a cancellation is swallowed",
        old=SEND_REQUEST,
        new="""
        import anyio
        try:
            {old}
        except anyio.get_cancelled_exc_class():
            result = None
        """,
        caught_by="test_a_call_can_be_given_up_at_each_suspension_as_on_a_bare_session",
        only="asyncio and call_tool",
    ),
    Mutant(
        name="a cancellation becomes an error",
        old=SEND_REQUEST,
        new="""
        import anyio
        try:
            {old}
        except anyio.get_cancelled_exc_class() as error:
            raise TimeoutError from error
        """,
        caught_by="test_a_call_can_be_given_up_at_each_suspension_as_on_a_bare_session",
        only="asyncio and call_tool",
    ),
    Mutant(
        name="a call is shielded from cancellation",
        old=SEND_REQUEST,
        new="""
        import anyio
        with anyio.CancelScope(shield=True):
            {old}
        """,
        caught_by="test_a_call_can_be_given_up_at_each_suspension_as_on_a_bare_session",
        only="asyncio and call_tool",
    ),
    Mutant(
        name="a request is sent twice",
        old=SEND_REQUEST,
        new="""
        {old}
        {old}
        """,
        caught_by="test_frames_and_results_are_those_of_a_bare_session",
        only="asyncio and ping",
    ),
    Mutant(
        name="a request is sent twice if the server refuses it",
        old=CHAIN_END,
        new="""
        try:
            {old}
        except Exception:
            {old}
        """,
        caught_by="test_a_misbehaving_server_does_to_a_wrapped_session_what_it_does_to_a_bare_one",
    ),
    Mutant(
        name="calls wait for each other",
        old=SEND_REQUEST,
        new="""
        import anyio
        async with manager.__dict__.setdefault("one_at_a_time", anyio.Lock(fast_acquire=True)):
            {old}
        """,
        caught_by="test_a_message_does_not_wait_for_another",
    ),
    Mutant(
        name="a task group is opened round the call",
        old=SEND_REQUEST,
        new="""
        import anyio
        async with anyio.create_task_group():
            {old}
        """,
        caught_by="test_failures_are_those_of_a_bare_session",
    ),
    Mutant(
        name="a task group is opened round the call and its errors unpacked",
        old=SEND_REQUEST,
        new="""
        import anyio
        failure = None
        async with anyio.create_task_group():
            try:
                {old}
            except Exception as error:
                failure = error
        if failure is not None:
            raise failure
        """,
        caught_by="test_a_call_can_be_given_up_at_each_suspension_as_on_a_bare_session",
        only="asyncio and call_tool",
    ),
    Mutant(
        name="a call is moved to another task",
        old=SEND_REQUEST,
        new="""
        import anyio
        results = []
        async def elsewhere():
            try:
                results.append((await chain(call, context), None))
            except Exception as error:
                results.append((None, error))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(elsewhere)
        result, failure = results[0]
        if failure is not None:
            raise failure
        """,
        caught_by="test_neither_request_nor_result_is_copied_and_the_call_stays_in_its_task",
    ),
    Mutant(
        name="there is a checkpoint before a call",
        old=SEND_REQUEST,
        new="""
        import anyio
        await anyio.lowlevel.checkpoint()
        {old}
        """,
        caught_by="test_a_call_can_be_given_up_at_each_suspension_as_on_a_bare_session",
        only="asyncio and ping",
    ),
    Mutant(
        name="there is a checkpoint after a call",
        old=SEND_REQUEST,
        new="""
        import anyio
        {old}
        await anyio.lowlevel.cancel_shielded_checkpoint()
        """,
        caught_by="test_a_call_can_be_given_up_at_each_suspension_as_on_a_bare_session",
        only="asyncio and ping",
    ),
    Mutant(
        name="there is a checkpoint where only an observer is",
        old="result = await (chain or _SEND)(invocation, context)",
        new="""
        await anyio.lowlevel.checkpoint()
        {old}
        """,
        caught_by="test_a_call_can_be_given_up_at_each_suspension_as_on_a_bare_session",
        only="asyncio and ping",
    ),
    Mutant(
        name="a request is copied",
        old=MESSAGE,
        new="request, timeout = self.message.model_copy(), self.timeout",
        caught_by="test_neither_request_nor_result_is_copied_and_the_call_stays_in_its_task",
    ),
    Mutant(
        name="params are copied for the chain",
        old="self.params = context.params",
        new="""
        {old}
        context.params = context.params and context.params.model_copy(deep=True)
        self.params = context.params
        """,
        caught_by="test_changed_params_reach_the_wire",
        only="asyncio and in_place",
    ),
    Mutant(
        name="a result is copied",
        old=SEND_REQUEST,
        new="""
        {old}
        result = result.model_copy()
        """,
        caught_by="test_neither_request_nor_result_is_copied_and_the_call_stays_in_its_task",
    ),
    Mutant(
        name="a result is serialised and read again",
        old=CHAIN_END,
        new="""
        {old}
        if context.kind == "request" and hasattr(result, "model_dump"):
            result = invocation.result = type(result).model_validate(result.model_dump(by_alias=True))
        """,
        caught_by="test_neither_request_nor_result_is_copied_and_the_call_stays_in_its_task",
    ),
    Mutant(
        name="a result is copied where no middleware is",
        old="result = await interception.transmit(*arguments)",
        new="""
        {old}
        result = result.model_copy()
        """,
        caught_by="test_neither_request_nor_result_is_copied_and_the_call_stays_in_its_task",
    ),
    Mutant(
        name="the type of the result is not asked for",
        old=TRANSMIT,
        new="answer = self.below.send_request(request, types.EmptyResult, **options)",
        caught_by="test_frames_and_results_are_those_of_a_bare_session",
        only="asyncio and call_tool",
        lines=(2,),
    ),
    Mutant(
        name="what the SDK sends past send_request is read and written again",
        old='return wire["raw"] if is_same_json(data, wire["answer"]) else data',
        new="return data",
        caught_by="test_what_a_server_says_of_itself_reaches_the_sdk_as_it_came",
        lines=(2,),
    ),
    Mutant(
        name="what the SDK sends past send_request is sent twice",
        old='wire["raw"] = await self._send(method, sent, options)',
        new="""
        {old}
        {old}
        """,
        caught_by="test_frames_and_results_are_those_of_a_bare_session",
        only="asyncio and discover",
        lines=(2,),
    ),
    Mutant(
        name="the options of what the SDK sends past send_request are dropped",
        old='wire["raw"] = await self._send(method, sent, options)',
        new='wire["raw"] = await self._send(method, sent, {})',
        caught_by="test_frames_and_results_are_those_of_a_bare_session",
        only="asyncio and discover",
        lines=(2,),
    ),
    Mutant(
        name="the error of a notification is swallowed",
        old=NOTIFY,
        new="""
        try:
            {old}
        except Exception:
            logger.exception("lost")
        """,
        caught_by="test_failures_are_those_of_a_bare_session",
        only="asyncio and notification",
    ),
    Mutant(
        name="a notification is sent twice",
        old=NOTIFY,
        new="""
        {old}
        {old}
        """,
        caught_by="test_frames_and_results_are_those_of_a_bare_session",
        only="asyncio and roots_list",
    ),
    Mutant(
        name="a notification is sent by another task",
        old=NOTIFY,
        new="""
        import anyio
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self.interception.below.send_notification, message, *args)
        """,
        caught_by="test_a_notification_is_not_copied_and_stays_in_its_task",
    ),
    Mutant(
        name="a notification is copied",
        old=NOTIFY,
        new="await self.interception.below.send_notification(message.model_copy(), *args, **kwargs)",
        caught_by="test_a_notification_is_not_copied_and_stays_in_its_task",
    ),
    Mutant(
        name="there is a checkpoint before a notification",
        old=NOTIFY,
        new="""
        import anyio
        await anyio.lowlevel.checkpoint()
        {old}
        """,
        caught_by="test_a_call_can_be_given_up_at_each_suspension_as_on_a_bare_session",
        only="asyncio and a and notification",
    ),
    Mutant(
        name="what a notification belongs to is dropped",
        old=NOTIFY,
        new="await self.interception.below.send_notification(message)",
        caught_by="test_frames_and_results_are_those_of_a_bare_session",
        only="asyncio and related",
        lines=(1,),
    ),
    Mutant(
        name="a call that was given up is not called off",
        old='_abandon(session, error, "caller cancelled")',
        new="pass",
        caught_by="test_the_server_is_told_once_of_a_cancelled_call",
        lines=(1,),
    ),
    Mutant(
        name="a call that was given up is called off twice",
        old='_abandon(session, error, "caller cancelled")',
        new="""
        {old}
        {old}
        """,
        caught_by="test_the_server_is_told_once_of_a_cancelled_call",
        lines=(1,),
    ),
    Mutant(
        name="a call ends only after the server was told that it was given up",
        old="_abandon(session, error, error.error.message)",
        new="""
        {old}
        with anyio.CancelScope(shield=True):
            await anyio.lowlevel.checkpoint()
        """,
        caught_by="test_a_call_that_fails_suspends_as_often_as_on_a_bare_session",
        lines=(1,),
    ),
    Mutant(
        name="built-in middleware has a checkpoint",
        old="self._observe(context, result, None, perf_counter() - started)",
        new="""
        {old}
        import anyio
        await anyio.lowlevel.checkpoint()
        """,
        caught_by="test_a_call_can_be_given_up_at_each_suspension_as_on_a_bare_session",
        only="asyncio and ping",
    ),
]

INCOMING = [
    Mutant(
        name="an incoming notification is dropped",
        old='await self._original("_handle_incoming")(notification)',
        new="pass",
        caught_by="test_all_a_server_may_send_is_received_as_by_a_bare_session",
        only="asyncio and three and sound",
        lines=(1,),
    ),
    Mutant(
        name="an incoming notification does not reach its callback",
        old='await self._original("_received_notification")(notification)\n'
        'await self._original("_handle_incoming")(notification)',
        new='await self._original("_handle_incoming")(notification)',
        caught_by="test_all_a_server_may_send_is_received_as_by_a_bare_session",
        only="asyncio and three and sound",
        lines=(1,),
    ),
    Mutant(
        name="an incoming notification is dropped (2.x)",
        old="await on_notify(context, message.method, wire)\nreturn",
        new="return",
        caught_by="test_all_a_server_may_send_is_received_as_by_a_bare_session",
        only="asyncio and three and sound",
        lines=(2,),
    ),
    Mutant(
        name="incoming messages are delivered twice",
        old=DELIVER,
        new="""
        await self._deliver(params)
        {old}
        """,
        caught_by="test_all_a_server_may_send_is_received_as_by_a_bare_session",
        only="asyncio and three and sound",
    ),
    Mutant(
        name="the error of a callback that is told something is swallowed",
        old="""
        if error is raised:
            raise
        _report(f"an incoming {_shown(method)} is lost, as middleware failed", error)
        """,
        new="pass",
        caught_by="test_all_a_server_may_send_is_received_as_by_a_bare_session",
        only="asyncio and three and raise and not protocol",
        lines=(1,),
    ),
    Mutant(
        name="the error of a callback that is told something is swallowed (2.x)",
        old="""
        if error is raised:
            raise
        _report(f"an incoming {_shown(method)} is lost, as middleware failed", error)
        """,
        new="pass",
        caught_by="test_a_progress_callback_that_fails_in_process_ends_as_on_a_bare_session",
        lines=(2,),
    ),
    Mutant(
        name="the error of a callback that is asked something is another",
        old="""
        if error is raised:
            raise
        if isinstance(error, line.Error):
        """,
        new="""
        if isinstance(error, line.Error):
        """,
        caught_by="test_all_a_server_may_send_is_received_as_by_a_bare_session",
        only="asyncio and three and raise and not protocol",
    ),
    Mutant(
        name="what a callback refuses with loses its data",
        old="return refusal",
        new="return types.ErrorData(code=refusal.code, message=refusal.message)",
        caught_by="test_all_a_server_may_send_is_received_as_by_a_bare_session",
        only="asyncio and three and refuse",
    ),
    Mutant(
        name="the error of a progress callback is swallowed without a word",
        old='logging.error("Progress callback raised an exception: %s", error)',
        new="pass",
        caught_by="test_progress_is_received_as_by_a_bare_session",
        only="asyncio and three and raise",
        lines=(1,),
    ),
    Mutant(
        name="the error of a handler of transport failures is swallowed",
        old="""
        await self._original("_handle_incoming")(item)
        except Exception as error:
            if not self._is_released():
                self._drop_turn()
                raise
        """,
        new="""
            await self._original("_handle_incoming")(item)
        except Exception as error:
        """,
        caught_by="test_a_handler_that_fails_ends_as_on_a_bare_session",
        lines=(1,),
    ),
    Mutant(
        name="incoming params are copied",
        old=DELIVER,
        new="return await self._deliver(params.model_copy() if isinstance(params, BaseModel) else params)",
        caught_by="test_a_callback_gets_the_very_params_and_the_chain_its_very_result",
    ),
    Mutant(
        name="incoming params are serialised and read again",
        old=DELIVER,
        new="""
        if isinstance(params, BaseModel):
            params = type(params).model_validate(params.model_dump(by_alias=True))
        {old}
        """,
        caught_by="test_what_a_callback_gets_is_what_a_bare_one_gets_down_to_the_fields_that_were_set",
    ),
    Mutant(
        name="what a server sent is serialised again",
        old="return self.raw if is_same_json(data, self._before) else data",
        new="return data",
        caught_by="test_a_notification_is_not_read_and_written_again",
        lines=(2,),
    ),
    Mutant(
        name="the result of a callback is copied",
        old=DELIVER,
        new="""
        answer = await self._deliver(params)
        return answer.model_copy() if isinstance(answer, BaseModel) else answer
        """,
        caught_by="test_a_callback_gets_the_very_params_and_the_chain_its_very_result",
    ),
    Mutant(
        name="the result of a callback is serialised and read again",
        old=DELIVER,
        new="""
        answer = await self._deliver(params)
        return type(answer).model_validate(answer.model_dump()) if isinstance(answer, BaseModel) else answer
        """,
        caught_by="test_a_callback_gets_the_very_params_and_the_chain_its_very_result",
    ),
    Mutant(
        name="incoming messages are handled by a task of their own",
        old=DELIVER,
        new="""
        import anyio
        answers = []
        async def elsewhere():
            answers.append(await self._deliver(params))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(elsewhere)
        return answers[0]
        """,
        caught_by="test_a_callback_runs_in_the_task_in_which_the_chain_does",
    ),
    Mutant(
        name="there is a checkpoint before an incoming message",
        old=DELIVER,
        new="""
        import anyio
        await anyio.lowlevel.checkpoint()
        {old}
        """,
        caught_by="test_the_chain_never_suspends_on_the_way_to_a_callback_and_back",
    ),
    Mutant(
        name="there is a checkpoint after an incoming message",
        old="return await receiver.manager.run(chain, _IncomingCall(context, deliver, message), context)",
        new="""
        import anyio
        answer = await receiver.manager.run(chain, _IncomingCall(context, deliver, message), context)
        await anyio.lowlevel.cancel_shielded_checkpoint()
        return answer
        """,
        caught_by="test_the_chain_never_suspends_on_the_way_to_a_callback_and_back",
    ),
    Mutant(
        name="there is a checkpoint before the chain of an incoming request",
        old="await self._answer(responder)",
        new="""
        await anyio.lowlevel.checkpoint()
        {old}
        """,
        caught_by="test_the_chain_never_suspends_on_the_way_to_a_callback_and_back",
        lines=(1,),
    ),
    Mutant(
        name="there is a checkpoint before the chain of an incoming notification (2.x)",
        old="await self._incoming.tell(message.method, message.params, deliver, origin=callback)",
        new="""
        await anyio.lowlevel.checkpoint()
        {old}
        """,
        caught_by="test_the_chain_never_suspends_on_the_way_to_a_callback_and_back",
        lines=(2,),
    ),
    Mutant(
        name="incoming messages wait for each other",
        old=DELIVER,
        new="""
        import anyio
        async with self.entry.session.__dict__.setdefault("one_at_a_time", anyio.Lock(fast_acquire=True)):
            {old}
        """,
        caught_by="test_a_handler_may_use_the_session",
        only="asyncio and two_deep and elicit",
    ),
    Mutant(
        name="a callback cannot be cancelled",
        old=DELIVER,
        new="""
        import anyio
        with anyio.CancelScope(shield=True):
            {old}
        """,
        caught_by="test_a_server_may_cancel_what_a_handler_is_waiting_for",
        only="asyncio and callback and not shielded",
    ),
    Mutant(
        name="the cancellation of a callback is swallowed",
        old=DELIVER,
        new="""
        import anyio
        try:
            {old}
        except anyio.get_cancelled_exc_class():
            return types.ElicitResult(action="cancel")
        """,
        caught_by="test_a_session_closes_while_a_message_is_in_the_chain",
        only="asyncio and in and the and callback and elicitation",
    ),
    Mutant(
        name="a request that the server calls off goes on",
        old="await in_flight.cancel()",
        new="pass",
        caught_by="test_a_server_may_cancel_what_a_handler_is_waiting_for",
        only="asyncio and callback and not shielded",
        lines=(1,),
    ),
    Mutant(
        name="a request that the server calls off goes on (2.x)",
        old="original(changed, metadata, on_notify, sender_context)",
        new="pass",
        caught_by="test_a_server_may_cancel_what_a_handler_is_waiting_for",
        only="asyncio and callback and not shielded",
        lines=(2,),
    ),
    Mutant(
        name="a progress callback is called twice",
        old="await callback(params.progress, params.total, params.message)",
        new="""
        {old}
        {old}
        """,
        caught_by="test_progress_is_received_as_by_a_bare_session",
        only="asyncio and three and sound",
        lines=(1,),
    ),
    Mutant(
        name="a progress callback is called by the SDK, and by the chain again",
        old="pending.on_progress = None",
        new="pass",
        caught_by="test_progress_is_received_as_by_a_bare_session",
        only="asyncio and three and sound",
        lines=(2,),
    ),
    Mutant(
        name="a progress callback is called late",
        old="await callback(params.progress, params.total, params.message)",
        new="self.incoming.owner._task_group.start_soon(callback, params.progress, params.total, params.message)",
        caught_by="test_a_burst_and_the_response_after_it_keep_their_order",
        only="asyncio",
        lines=(1,),
    ),
    Mutant(
        name="a progress callback is called late (2.x)",
        old="tasks.start_soon(on_notify, context, message.method, wire)",
        new="await on_notify(context, message.method, wire)",
        caught_by="test_a_burst_and_the_response_after_it_keep_their_order",
        only="asyncio",
        lines=(2,),
    ),
    Mutant(
        name="an answer to the server is not sent",
        old="elif response is not unanswered:",
        new="elif False:",
        caught_by="test_all_a_server_may_send_is_received_as_by_a_bare_session",
        only="asyncio and three and sound",
        lines=(1,),
    ),
    Mutant(
        name="an answer to the server is not sent (2.x)",
        old="return dump(result) if isinstance(result, BaseModel) else result",
        new="await anyio.sleep_forever()",
        caught_by="test_all_a_server_may_send_is_received_as_by_a_bare_session",
        only="asyncio and three and sound",
        lines=(2,),
    ),
    Mutant(
        name="the server learns why a middleware failed",
        old='return types.ErrorData(code=types.INTERNAL_ERROR, message="Internal error")',
        new="return types.ErrorData(code=types.INTERNAL_ERROR, message=str(error))",
        caught_by="test_of_a_failure_in_middleware_a_server_that_asks_learns_nothing",
        only="asyncio and elicitation and raises",
    ),
    Mutant(
        name="the server gets the wrong error code",
        old='return types.ErrorData(code=types.INTERNAL_ERROR, message="Internal error")',
        new='return types.ErrorData(code=types.INVALID_PARAMS, message="Internal error")',
        caught_by="test_of_a_failure_in_middleware_a_server_that_asks_learns_nothing",
        only="asyncio and elicitation and raises",
    ),
    Mutant(
        name="a callback is not told the _meta of a request",
        old="params.meta if params else None,",
        new="None,",
        caught_by="test_all_a_server_may_send_is_received_as_by_a_bare_session",
        only="asyncio and three and sound",
        lines=(1,),
    ),
    Mutant(
        name="a callback is wrapped, so that the client promises what it has not",
        old="self._patches = patches = Patches()\nstate = session.__dict__",
        new="""
        {old}
        roots = state["_list_roots_callback"]
        async def list_roots(context):
            return await roots(context)
        patches.set(session, "_list_roots_callback", list_roots)
        """,
        caught_by="test_a_client_promises_what_its_own_callbacks_do",
        only="asyncio and sampling_callback",
        lines=(1,),
    ),
    Mutant(
        name="a callback is wrapped, so that the client promises what it has not (2.x)",
        old="self._own: dict[str, Any] = {}",
        new="""
        {old}
        roots = session.__dict__["_list_roots_callback"]
        async def list_roots(context):
            return await roots(context)
        self._patch(session, "_list_roots_callback", list_roots)
        """,
        caught_by="test_a_client_promises_what_its_own_callbacks_do",
        only="asyncio and sampling_callback",
        lines=(2,),
    ),
]

TAP = [
    Mutant(
        name="the tap reorders what has arrived",
        old=READ,
        new="""
        import anyio
        kept = self.__dict__.setdefault("kept", [])
        if kept:
            item = kept.pop()
        else:
            {old}
            with anyio.move_on_after(0.01):
                later = await self.untapped.__anext__()
                kept.append(item)
                item = later
        """,
        caught_by="test_frames_keep_their_order_through_a_tap",
    ),
    Mutant(
        name="the tap drops a frame",
        old=WRITE,
        new="""
        if getattr(line.frame_of(item), "method", None) != "notifications/initialized":
            {old}
        """,
        caught_by="test_every_frame_is_seen_in_order_with_its_id",
    ),
    Mutant(
        name="the tap has a checkpoint where it writes",
        old=WRITE,
        new="""
        {old}
        import anyio
        await anyio.lowlevel.checkpoint()
        """,
        caught_by="test_a_tap_adds_no_suspension_to_what_is_sent",
    ),
    Mutant(
        name="the tap has a checkpoint where it reads",
        old=READ,
        new="""
        {old}
        import anyio
        await anyio.lowlevel.checkpoint()
        """,
        caught_by="test_a_tap_adds_no_suspension",
    ),
    Mutant(
        name="the tap swallows failures of the transport",
        old=READ,
        new="""
        {old}
        while isinstance(item, Exception):
            {old}
        """,
        caught_by="test_failures_of_the_transport_reach_the_message_handler",
    ),
    Mutant(
        name="the tap swallows failures to write",
        old=WRITE,
        new="""
        with suppress(Exception):
            {old}
        """,
        caught_by="test_a_transport_that_cannot_be_written_to_fails_as_without_a_tap",
    ),
    Mutant(
        name="the tap drops the metadata for the transport",
        old=WRITE,
        new="await self.untapped.send(type(item)(item.message))",
        caught_by="test_what_passes_a_tap_are_the_very_objects",
    ),
    Mutant(
        name="the tap copies what it reads",
        old=READ,
        new="""
        {old}
        item = type(item)(item.message, item.metadata)
        """,
        caught_by="test_what_passes_a_tap_are_the_very_objects",
    ),
    Mutant(
        name="the tap keeps what was given up",
        old="self._waiting.pop(call.context.jsonrpc_id, None)",
        new="pass",
        caught_by="test_nothing_is_kept_of_calls_that_were_given_up",
    ),
    Mutant(
        name="a listener that fails breaks the message",
        old="listener(direction, message)\nexcept Exception:",
        new="""
                listener(direction, message)
        except ValueError:
        """,
        caught_by="test_a_listener_that_fails_is_logged_once_and_changes_nothing",
    ),
]

EVERYWHERE = [
    Mutant(
        name="one attribute is not set back",
        old="if attributes.get(name, _ABSENT) is not value:",
        new='if attributes.get(name, _ABSENT) is not value or name == "send_notification":',
        caught_by="test_afterwards_a_session_that_is_still_alive_is_as_before",
    ),
    Mutant(
        name="what was set before is lost when it is set back",
        old="if before is _ABSENT:",
        new="if True:",
        caught_by="test_a_method_that_somebody_else_patches_goes_on_working",
        only="asyncio and before",
    ),
    Mutant(
        name="the constructor is not set back",
        old="ClientSession.__init__ = below",
        new="pass",
        caught_by="test_afterwards_a_session_that_is_still_alive_is_as_before",
    ),
    Mutant(
        name="what a server sends is intercepted for ever",
        old="gone.incoming.remove(gone)",
        new="pass",
        caught_by="test_nothing_is_left_of_an_interception_in_place_whoever_holds_the_wrapper",
    ),
    Mutant(
        name="the version that was noted stays",
        old="vars(self._session()).pop(VERSION_KEY, None)",
        new="pass",
        caught_by="test_nothing_is_left_of_an_interception_in_place_whoever_holds_the_wrapper",
        lines=(1,),
    ),
    Mutant(
        name="what puts headers on requests stays",
        old='state["_stamp"] = state["_stamp"].stamp',
        new="pass",
        caught_by="test_afterwards_a_session_that_is_still_alive_is_as_before",
        lines=(2,),
    ),
    Mutant(
        name="what somebody else set on a session is passed by",
        old='self._request = vars(session).get("send_request")',
        new="self._request = None",
        caught_by="test_a_method_that_somebody_else_patches_goes_on_working",
    ),
    Mutant(
        name="live sessions are not found",
        old="for session in _live():",
        new="for session in ():",
        caught_by="test_a_session_made_before_is_intercepted",
    ),
]

TRACING = [
    Mutant(
        name="the SDK makes a span of its own as well",
        old="return nullcontext(INVALID_SPAN)",
        new="return self._own.start_as_current_span(name, *args, **options)",
        caught_by="test_a_traced_call_has_no_span_of_the_sdks",
        lines=(2,),
    ),
    Mutant(
        name="what a server in this process sends is taken for the call that it answers",
        old="held.is_taken = True",
        new="pass",
        caught_by="test_a_server_in_this_process_that_calls_another_keeps_the_sdks_spans",
        lines=(2,),
    ),
    Mutant(
        name="a wrapper further in traces the same message again",
        old="and outer.tracing.has_provider(self._providers.tracer)",
        new="and False",
        caught_by="test_of_each_message_there_is_one_span_however_wrappers_are_nested",
    ),
    Mutant(
        name="the server is not told of the trace",
        old="return _with_meta(self.method, params, self._carrier) if self._carrier and not injected else params",
        new="return params",
        caught_by="test_calls_at_once_keep_to_their_own_traces",
        lines=(1,),
    ),
    Mutant(
        name="a span is not ended",
        old='if operation.is_own:\n    self.guard("end a span", span.end)',
        new="pass",
        caught_by="test_a_retry_that_succeeds_in_the_end_is_a_success",
    ),
    Mutant(
        name="the trace of a call stays that of its task",
        old="otel_context.detach(token)",
        new="pass",
        caught_by="test_a_call_given_up_at_any_suspension_ends_its_span_once_and_leaves_nothing",
    ),
    Mutant(
        name="a call that is given up is not traced",
        old="except BaseException as error:\n    operation.end(None, error)",
        new="except Exception as error:\n    operation.end(None, error)",
        caught_by="test_a_call_given_up_at_any_suspension_ends_its_span_once_and_leaves_nothing",
    ),
    Mutant(
        name="a fault of OpenTelemetry reaches the call",
        old="self._faults.report(aim, failure)\nreturn None",
        new="raise",
        caught_by="test_a_fault_of_opentelemetry_leaves_calls_alone_and_is_logged_once",
    ),
    Mutant(
        name="the status shows what an error repeats of the call",
        old="message = without_echoes(ending.message, params)",
        new="message = ending.message",
        caught_by="test_what_an_error_repeats_of_the_arguments_is_not_shown",
    ),
    Mutant(
        name="content is shown unless it is asked for",
        old="return self._names if isinstance(self._names, bool) else name in self._names",
        new="return True",
        caught_by="test_by_default_nothing_holds_what_is_said",
    ),
    Mutant(
        name="what a model makes up is a label",
        old="labels[subject.attribute] = subject.name if subject.name in names else semconv.OTHER",
        new="labels[subject.attribute] = subject.name",
        caught_by="test_names_that_no_server_knows_are_no_labels",
    ),
    Mutant(
        name="every refusal of ours is an error of ours",
        old="is_error = not (served and code in semconv.SERVER_NO_ERRORS)",
        new="is_error = True",
        caught_by="test_a_refusal_is_an_error_only_if_the_client_is_at_fault",
    ),
    Mutant(
        name="the trace that a server's question came with is lost",
        old="parent = self._extract(context.params)",
        new="parent = None",
        caught_by="test_what_the_server_asks_is_part_of_its_trace",
    ),
    Mutant(
        name="the span of another tool is enriched",
        old="if subject.attribute is not None and attributes.get(subject.attribute) not in (None, subject.name):",
        new="if False:",
        caught_by="test_the_span_of_another_tool_is_let_be",
    ),
    Mutant(
        name="HTTP requests are traced as part of whatever was going on when the connection was made",
        old="traced.enter()",
        new="pass",
        caught_by="test_http_requests_are_part_of_the_trace_of_their_calls",
        lines=(1,),
    ),
    Mutant(
        name="percentiles are those of a rank too low",
        old="ranks = [-(-percent * count // 100) for percent in _PERCENTS]",
        new="ranks = [percent * count // 100 for percent in _PERCENTS]",
        caught_by="test_percentiles_are_within_one_percent_of_the_exact_ones",
    ),
]

CASSETTES = [
    Mutant(
        name="a miss that the agent swallowed is forgotten",
        old="if misses:",
        new="if not misses:",
        caught_by="test_a_swallowed_miss_fails_the_block",
    ),
    Mutant(
        name="two record the same cassette",
        old="if not _try_lock(file):",
        new="if False:",
        caught_by="test_two_do_not_record_one_file",
        only="two",
    ),
    Mutant(
        name="what the client answers at replay is not looked at",
        old="self._player.differs(run_asking.interaction, event, frame, self.server)",
        new="pass",
        caught_by="test_sampling_refused_at_replay_is_noticed",
    ),
    Mutant(
        name="concurrent calls are kept in the order of chance",
        old="return self._sorted(lists) + self._sorted(rest)",
        new="return together",
        caught_by="test_recording_the_same_script_again_changes_no_line",
        only="trio",
    ),
    Mutant(
        name="what a block recorded that failed is put in place",
        old="elif error is not None and not self._save_on_failure:",
        new="elif False:",
        caught_by="test_nothing_is_written_where_nothing_was_said_or_the_block_failed",
    ),
    Mutant(
        name="a cassette that is led through twice is recorded twice",
        old="if cassette is not None and not is_led(server):",
        new="if cassette is not None:",
        caught_by="test_servers_of_the_same_name_are_told_apart_and_a_single_one_needs_no_name",
    ),
    Mutant(
        name="late answers break the transport of a recorded session",
        old="""
        while (below := getattr(stream, "untapped", None)) is not None:
            stream = below
        """,
        new='stream = getattr(stream, "untapped", stream)',
        caught_by="test_a_call_that_times_out_is_recorded_and_times_out_again",
        lines=(1,),
    ),
]

MUTANTS = [mutant for table in (OUTGOING, INCOMING, TAP, EVERYWHERE, TRACING, CASSETTES) for mutant in table]


class RottenError(Exception):
    """A row of the table does not fit the package or the tests any more."""


class Copy:
    """A copy of package and tests, to break and to run."""

    def __init__(self, root: Path, source: Path = HERE) -> None:
        self.root = root
        for name in ("mcp_intercept", "tests"):
            shutil.copytree(source / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(source / "pyproject.toml", root)

    def python(self, *arguments: str, seconds: float = SECONDS) -> subprocess.CompletedProcess[str]:
        # First on the path is what `-m` and PYTHONPATH say, before a checkout that is installed editable.
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=self.root,
            env={**os.environ, "PYTHONPATH": str(self.root)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=seconds,
            check=False,
        )

    def test(self, *arguments: str, seconds: float = SECONDS) -> subprocess.CompletedProcess[str]:
        return self.python("-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *arguments, seconds=seconds)

    def check_imported(self) -> None:
        """Make sure that what runs is the copy."""
        found = self.python("-c", "import mcp_intercept; print(mcp_intercept.__file__)").stdout.strip()
        if Path(found).resolve() != (self.root / "mcp_intercept" / "__init__.py").resolve():
            raise RottenError(f"not the copy is imported, but {found}")

    def node(self, function: str) -> str:
        """The node id of a test function."""
        pattern = re.compile(rf"^\s*(async )?def {function}\(", re.MULTILINE)
        files = [path for path in (self.root / "tests").rglob("test_*.py") if pattern.search(path.read_text("utf-8"))]
        if len(files) != 1:
            raise RottenError(f"{function} is in {len(files)} files")
        return f"{files[0].relative_to(self.root).as_posix()}::{function}"

    @contextmanager
    def broken_by(self, mutant: Mutant) -> Generator[None, None, None]:
        """The copy with one change, while open."""
        path, text = self._mutated(mutant)
        intact = path.read_text("utf-8")
        try:
            self._write(path, text)
            yield
        finally:
            self._write(path, intact)

    def _mutated(self, mutant: Mutant) -> tuple[Path, str]:
        old = [_code(line) for line in mutant.old.strip().splitlines()]
        found: list[tuple[Path, list[str], int]] = []
        for path in (self.root / "mcp_intercept").rglob("*.py"):
            if path.stem.endswith(str(3 - LINE)):
                continue
            lines = path.read_text("utf-8").splitlines()
            code = [_code(line) for line in lines]
            found += [(path, lines, at) for at in range(len(lines)) if code[at : at + len(old)] == old]
        if len(found) != 1:
            raise RottenError(f"its old text is found {len(found)} times")
        path, lines, at = found[0]
        before = lines[at : at + len(old)]
        indent = min((line[: len(line) - len(line.lstrip())] for line in before), key=len)
        block = textwrap.dedent("\n".join(before))
        new = "\n".join(
            textwrap.indent(block, line[: len(line) - len(line.lstrip())]) if line.strip() == "{old}" else line
            for line in textwrap.dedent(mutant.new).strip("\n").rstrip().splitlines()
        )
        lines[at : at + len(old)] = textwrap.indent(new, indent).splitlines()
        text = "\n".join(lines) + "\n"
        try:
            compile(text, str(path), "exec")
        except SyntaxError as error:
            raise RottenError(f"it makes no Python: {error}") from error
        return path, text

    @staticmethod
    def _write(path: Path, text: str) -> None:
        path.write_text(text, "utf-8")
        # Within a second, Python would take a file of the same size for the one that it has compiled.
        for compiled in path.parent.glob(f"__pycache__/{path.stem}.*"):
            compiled.unlink()


def _code(line: str) -> str:
    """A line without its indentation and its comment."""
    return line.partition("  # ")[0].strip()


def verdict(copy: Copy, mutant: Mutant) -> tuple[bool, str]:
    """Whether a mutant was caught, and by what."""
    try:
        node = copy.node(mutant.caught_by)
        with copy.broken_by(mutant):
            ran = copy.test(node, "-k", mutant.only)
    except RottenError as error:
        return False, f"ROTTEN: {error}"
    except subprocess.TimeoutExpired:
        return False, f"HANGS in {mutant.caught_by}"
    failed = re.search(r"^(?:FAILED|ERROR) (tests/\S+::.*?)(?: - .*)?$", ran.stdout, re.MULTILINE)
    if ran.returncode == 1 and failed:
        return True, failed[1].partition("/")[2]
    if ran.returncode == 0:
        return False, f"SURVIVED {mutant.caught_by}"
    return False, f"NOT RUN (pytest ended with {ran.returncode}): {ran.stdout.strip()[-500:]}"


def check_intact(copy: Copy, mutants: Sequence[Mutant]) -> None:
    """Make sure that what is to catch the mutants passes without them."""
    copy.check_imported()
    cases: dict[str, set[str]] = {}
    for mutant in mutants:
        cases.setdefault(mutant.caught_by, set()).add(mutant.only)
    for expression in sorted({" or ".join(f"({one})" for one in sorted(wanted)) for wanted in cases.values()}):
        nodes = [
            copy.node(test)
            for test, wanted in cases.items()
            if " or ".join(f"({one})" for one in sorted(wanted)) == expression
        ]
        ran = copy.test(*nodes, "-k", expression, seconds=10 * SECONDS)
        if ran.returncode != 0:
            raise RottenError(f"the tests do not pass as it is:\n{ran.stdout[-5000:]}")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="only mutants whose name contains it")
    parser.add_argument("--line", type=int, choices=[1, 2], help="the SDK line that must be installed")
    parser.add_argument("--jobs", type=int, default=1, help="how many to run at once, each in a copy of its own")
    options = parser.parse_args()
    if options.line not in (None, LINE):
        parser.error(f"line {LINE} of the SDK is installed")
    names: list[str] = options.names or [""]
    mutants = [mutant for mutant in MUTANTS if LINE in mutant.lines and any(name in mutant.name for name in names)]
    started = perf_counter()
    missed = 0
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(options.jobs) as pool:
        try:
            intact = Copy(Path(folder) / "0")
            check_intact(intact, mutants)
        except (RottenError, subprocess.TimeoutExpired) as error:
            print(error)
            return 1
        print(f"the tests pass on the intact copy ({perf_counter() - started:.0f} s)", flush=True)
        copies: SimpleQueue[Copy] = SimpleQueue()
        copies.put(intact)
        for number in range(1, options.jobs):
            copies.put(Copy(Path(folder) / str(number), intact.root))

        def judge(mutant: Mutant) -> tuple[bool, str, float]:
            copy, begun = copies.get(), perf_counter()
            try:
                return *verdict(copy, mutant), perf_counter() - begun
            finally:
                copies.put(copy)

        for mutant, (caught, text, seconds) in zip(mutants, pool.map(judge, mutants), strict=True):
            missed += not caught
            print(f"{'caught' if caught else 'MISSED'} {seconds:4.1f} s  {mutant.name}\n        {text}", flush=True)
    print(
        f"{len(mutants) - missed} of {len(mutants)} mutants caught on line {LINE} in {perf_counter() - started:.0f} s"
    )
    return 1 if missed or not mutants else 0


if __name__ == "__main__":
    sys.exit(main())
