"""What transformers and vLLM have written down about classes of tokenizers.

Source: transformers 5.19, `models/auto/tokenization_auto.py`; vLLM 0.32, `tokenizers/registry.py`.
"""

from __future__ import annotations


def words(text: str) -> frozenset[str]:
    """The words of a text."""
    return frozenset(text.split())


GENERIC = "TokenizersBackend"
"""Takes `tokenizer.json` as it is."""

REBUILDING = words(
    """Qwen2Tokenizer Qwen3_5Tokenizer LlamaTokenizer GPT2Tokenizer GPTNeoXTokenizer GemmaTokenizer
    CohereTokenizer"""
)
"""Take vocabulary, merges and post-processor from it, and the rest from their own code. Reproduced in
`rebuilding.py`."""

OTHER_CLASSES = words(
    """
    Albert Bart Barthez Bartpho BertGeneration BertJapanese Bert Bertweet BigBird BioGpt BlenderbotSmall
    Blenderbot ByT5 CLIP CTRL Camembert Canine Clvp CodeGen CodeLlama ConvBert CpmAnt Cpm DPRContextEncoder
    DPRQuestionEncoder DPRReader Deberta DebertaV2 Dia DistilBert Electra Esm Esmc FNet FSMT Flaubert Funnel
    GPTNeoXJapanese GPTSw3 Herbert LED Lasr LayoutLMv2 LayoutLMv3 LayoutXLM Luke Lxmert M2M100 MBart50 MBart
    MLuke MPNet Marian MarkupLM Mgpstr MobileBert Mvp MyT5 Nllb Nougat OpenAIGPT PLBart Parakeet Pegasus
    Perceiver Phobert Pop2Piano ProphetNet Rag Reformer RemBert RoCBert RoFormer Roberta SeamlessM4T Siglip2
    Siglip Speech2Text SpeechT5 Splinter SqueezeBert T5 Tapas Tipsv2 Udop VideoPrism Vits Wav2Vec2CTC
    Wav2Vec2PhonemeCTC Whisper XGLM XLMRoberta XLM XLNet
    """
)
"""Classes of transformers (less `Tokenizer`) that may replace things, and are not reproduced here."""

CLASS_TO_MODEL_TYPES = {
    "Qwen2Tokenizer": """audioflamingo3 colqwen2 cosmos3_omni fun_asr_nano hunyuan_vl internvl lighton_ocr
        ovis2 qianfan_ocr qwen2 qwen2_5_omni qwen2_5_vl qwen2_audio qwen2_moe qwen2_vl qwen3 qwen3_asr
        qwen3_moe qwen3_next qwen3_omni_moe qwen3_vl qwen3_vl_moe vibevoice""",
    "Qwen3_5Tokenizer": "qwen3_5 qwen3_5_moe qwen3_5_moe_text qwen3_5_text qwen4_exp",
    "GPT2Tokenizer": """blip-2 codegen dbrx emu3 gpt2 gpt_neo gptj hyperclovax_vision_v2 instructblip
        instructblipvideo jais2 opt phi starcoder2""",
    "GPTNeoXTokenizer": "falcon_mamba gpt_neox mamba mamba2 mpt olmo olmoe rwkv xlstm",
    "GemmaTokenizer": """diffusion_gemma gemma gemma2 gemma3 gemma3_text gemma3n gemma3n_text recurrent_gemma
        shieldgemma2 t5gemma zaya""",
    "CohereTokenizer": "aya_vision cohere cohere2",
    "LlamaTokenizer": "idefics idefics2",
    "CodeLlamaTokenizer": "code_llama",
    "BertTokenizer": "bert distilbert electra nomic_bert",
    "RobertaTokenizer": "roberta bart",
    "XLMRobertaTokenizer": "gte jina_embeddings_v3 xlm-roberta xmod",
    "T5Tokenizer": "mt5 t5",
    "WhisperTokenizer": "whisper",
    # Where vLLM asks transformers at all it forbids the format of mistral-common: the generic class is left.
    GENERIC: """aria bigbird_pegasus canary flex_olmo glm glm4 glm4_moe glm4_moe_lite glm4v glm4v_moe
        glm_image glmasr got_ocr2 gpt_bigcode granite granitemoe granitemoehybrid granitemoeshared kimi_k25
        kimi_linear kosmos-2 mimo_v2_flash minicpmv4_6 minicpmv4_7 ministral ministral3 mistral mistral3
        mixtral nystromformer olmo2 olmo3 olmo_hybrid pegasus_x persimmon pix2struct pixtral stablelm umt5
        voxtral voxtral_realtime xlm-roberta-xl""",
}
"""The class that transformers has registered for a `model_type`, where that matters for served models."""

WRONG_HUB_CLASS = words(
    """
    arctic camembertv2-base chameleon chatlm cohere_asr deepseek_ocr deepseek_ocr2 deepseek_v2 deepseek_v3
    deepseek_v32 deepseek_v4 deepseek_vl deepseek_vl_hybrid deepseek_vl_v2 ernie4_5 ernie4_5_moe fuyu
    h2ovl_chat hyperclovax hyperclovax_vision_v2 hyperclovax_vlm internlm2 jamba janus llava llava_next
    minicpm3 minicpmv minimax_m2 modernbert modernbert-decoder molmo molmo2 nemotron nvfp4 opencua openvla
    paddleocr_vl phi3 phi3_v phimoe qwen2 qwen3_5 qwen3_5_moe qwen3_5_moe_text qwen4_exp smolvlm step3_vl
    step3p5 vipllava
    """
)
"""Model types whose published class counts as wrong: the registered one is taken, where none is the generic
one."""

GENERIC_FOR_VLLM = words("internlm2 step3_vl step3p7 unlimited-ocr unlimited_ocr")
"""Model types that vLLM loads by the generic class whatever is published."""

MODEL_TYPE_TO_CLASS: dict[str, str] = {
    **dict.fromkeys(WRONG_HUB_CLASS, GENERIC),
    **{kind: name for name, kinds in CLASS_TO_MODEL_TYPES.items() for kind in words(kinds)},
}
