"""The tokenization service: tokenizers for programs of other languages, nodes and makers, over gRPC."""

from __future__ import annotations

from kvatlas.tokenize.service.config import ServiceConfig
from kvatlas.tokenize.service.serving.answers import Answers, ModelTokenizers
from kvatlas.tokenize.service.serving.grpc_server import GrpcServer
from kvatlas.tokenize.service.wire.schema import DEFINITION


class TokenizationServer(GrpcServer):
    """Serves tokenizers. Any thread. They stay the caller's: `stop` does not close them."""

    def __init__(self, tokenizers: ModelTokenizers, config: ServiceConfig | None = None) -> None:
        answers = Answers(tokenizers)
        super().__init__("tokenization service", answers, (DEFINITION,), config or ServiceConfig())
