"""The messages of the gateway's gRPC services. The .proto files beside say the same for readers."""

from __future__ import annotations

from kvatlas.tokenize.service.wire.definition import Definition

INDEXER = Definition(
    "indexer.proto",
    "indexer.v1",
    {"IndexerService": {"GetPodScores": ("GetPodScoresRequest", "GetPodScoresResponse")}},
    {
        "GetPodScoresRequest": "string prompt = 1; string model_name = 2; "
        "repeated string pod_identifiers = 3",
        "GetPodScoresResponse": "repeated PodScore scores = 1",
        "PodScore": "string pod = 1; double score = 2",
    },
)
"""llm-d's."""

GATEWAY = Definition(
    "gateway.proto",
    "kvatlas.v1",
    {
        "GatewayService": {
            "Score": ("ScoreRequest", "ScoreResponse"),
            "Choose": ("ChooseRequest", "Choice"),
            "PrefillDone": ("PrefillDoneRequest", "FeedbackResponse"),
            "Produced": ("ProducedRequest", "FeedbackResponse"),
            "Completed": ("CompletedRequest", "FeedbackResponse"),
            "Failed": ("FailedRequest", "FeedbackResponse"),
            "GetReceipt": ("ReceiptRequest", "ReceiptResponse"),
            "ListPods": ("PodsRequest", "PodsResponse"),
        }
    },
    {
        "Prompt": "string model = 1; repeated uint32 token_ids = 2; optional bytes token_bytes = 3; "
        "optional string text = 4; optional string chat_json = 5; optional string lora = 6; "
        "optional string cache_salt = 7; repeated Feature features = 8; repeated string pods = 9",
        "Feature": "string identifier = 1; uint32 offset = 2; uint32 length = 3",
        "ScoreRequest": "Prompt prompt = 1; string strategy = 2",
        "ScoreResponse": "map<string, double> scores = 1; repeated WorkerScore workers = 2; "
        "uint32 prompt_blocks = 3; uint32 block_size_tokens = 4; bool is_whole = 5",
        "WorkerScore": "string pod = 1; uint32 rank = 2; uint32 blocks = 3; "
        "map<string, uint32> tier_blocks = 4; double score = 5; uint64 cached_tokens = 6; string truth = 7",
        "ChooseRequest": "Prompt prompt = 1; string request_id = 2; string session = 3; "
        "map<string, string> labels = 4; map<string, string> near = 5; string role = 6; "
        "optional uint64 output_tokens = 7; optional bool reserve = 8",
        "Choice": "string request_id = 1; string pod = 2; uint32 rank = 3; optional string url = 4; "
        "uint64 cached_tokens = 5; uint64 prompt_tokens = 6; double cost = 7; string cost_unit = 8; "
        "string truth = 9; string policy = 10; string reason = 11; bool is_reserved = 12; "
        "optional Choice decode = 13",
        "PrefillDoneRequest": "string request_id = 1",
        "ProducedRequest": "string request_id = 1; uint64 tokens = 2",
        "CompletedRequest": "string request_id = 1; optional uint64 cached_tokens = 2; "
        "optional uint64 output_tokens = 3",
        "FailedRequest": "string request_id = 1; string why = 2",
        "FeedbackResponse": "string request_id = 1",
        "ReceiptRequest": "string request_id = 1; optional string cache_salt = 2",
        "ReceiptResponse": "string receipt_json = 1",
        "PodsRequest": "",
        "PodsResponse": "repeated Pod pods = 1",
        "Pod": "string pod = 1; string model = 2; optional string url = 3; string role = 4; "
        "map<string, string> labels = 5; string node = 6; bool is_draining = 7; "
        "repeated PodWorker workers = 8",
        "PodWorker": "uint32 rank = 1; string state = 2; repeated string doubts = 3",
    },
)
"""Our own."""

DEFINITIONS = (INDEXER, GATEWAY)
