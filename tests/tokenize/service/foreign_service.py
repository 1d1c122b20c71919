"""A service as llm-d's is: it knows no field of ours, and ends a call that fails with INTERNAL."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc

from kvatlas.tokenize.chat.request import chat_of
from kvatlas.tokenize.tokenizers import Tokenizers
from tests.tokenize.service.calling import REQUESTS, RESPONSES
from tests.tokenize.service.compiled import foreign_class

Answer = Callable[[Any, grpc.ServicerContext], Any]


@contextmanager
def serving(answers: dict[str, Answer], address: str = "127.0.0.1:0") -> Iterator[str]:
    """Serves calls by their names, each a request's message to an answer's. Gives the address."""
    pool = ThreadPoolExecutor(8)
    server = grpc.server(pool, options=[("grpc.so_reuseport", 0)])
    handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
        name: grpc.unary_unary_rpc_method_handler(
            answer,
            request_deserializer=foreign_class(REQUESTS[name]).FromString,
            response_serializer=lambda message: message.SerializeToString(),
        )
        for name, answer in answers.items()
    }
    service = grpc.method_handlers_generic_handler("tokenization.TokenizationService", handlers)
    server.add_generic_rpc_handlers((service,))
    port = server.add_insecure_port(address)
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(0).wait()
        pool.shutdown(wait=False, cancel_futures=True)


def foreign_answers(tokenizers: Tokenizers) -> dict[str, Answer]:
    """What llm-d's service answers, by the tokenizers' ids."""

    def response(name: str, **fields: Any) -> Any:
        return foreign_class(RESPONSES[name])(success=True, **fields)

    def initialize(request: Any, _context: grpc.ServicerContext) -> Any:
        return response("InitializeTokenizer")

    def tokenize(request: Any, _context: grpc.ServicerContext) -> Any:
        prompt = tokenizers.encode(
            request.model_name, request.input, add_special_tokens=request.add_special_tokens
        )
        return response("Tokenize", input_ids=prompt.token_ids.tolist())

    def completion(request: Any, _context: grpc.ServicerContext) -> Any:
        ids = tokenizers.encode(request.model_name, request.prompt).token_ids.tolist()
        return response("RenderCompletion", request_id="1", token_ids=ids)

    def chat_completion(request: Any, context: grpc.ServicerContext) -> Any:
        body: dict[str, Any] = {"messages": []}
        for message in request.messages:
            body["messages"].append({"role": message.role, "content": message.content})
            if message.content_parts:
                body["messages"][-1]["content"] = [
                    {"type": p.type, "text": p.text} for p in message.content_parts
                ]
            if message.tool_calls_json:
                body["messages"][-1]["tool_calls"] = json.loads(message.tool_calls_json)
        if request.tools_json:
            body["tools"] = json.loads(request.tools_json)
        if request.chat_template_kwargs:
            body["chat_template_kwargs"] = json.loads(request.chat_template_kwargs)
        if request.HasField("add_generation_prompt"):
            body["add_generation_prompt"] = request.add_generation_prompt
        body["continue_final_message"] = request.continue_final_message
        try:
            ids = tokenizers.encode_chat(request.model_name, chat_of(body)).token_ids.tolist()
        except Exception as error:
            context.abort(grpc.StatusCode.INTERNAL, str(error))
        return response("RenderChatCompletion", request_id="1", token_ids=ids)

    return {
        "InitializeTokenizer": initialize,
        "Tokenize": tokenize,
        "RenderCompletion": completion,
        "RenderChatCompletion": chat_completion,
    }
