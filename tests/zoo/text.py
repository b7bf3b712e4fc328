"""Tokenizers and text encoders, made here: CLIP and T5 read letters, language models read words."""

from __future__ import annotations

from typing import Any

from tests.builders.tiny_pipelines import LETTERS, TEXT_WIDTH, clip_encoder, clip_tokenizer
from tests.builders.tiny_pipelines import t5 as letters_t5
from tests.zoo.weights import seeded

WIDTH = 2 * TEXT_WIDTH
"""Width of what T5 and the language models give."""
CLIP, T5 = 12, 16
"""Text tokens of a CLIP encoder (its tokenizer's length) and of T5 (the `max_sequence_length` of the calls)."""

CHAT = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{{ message['content'][0]['text'] }}"
    "{% endif %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
START = ("<|im_start|>", 2)
WORDS = "a red cat big dog user assistant system describe the image"


def clip(seed: int = 11, *, projected: bool = False, longest: int = CLIP) -> tuple[Any, Any]:
    """(encoder, tokenizer) of the CLIP kind; `projected` as SDXL's second and SD3's two; `longest`: its tokens."""
    encoder, tokenizer = clip_encoder(projected, longest), clip_tokenizer()
    tokenizer.model_max_length = longest
    return seeded(encoder, seed), tokenizer


def t5(seed: int = 12) -> tuple[Any, Any]:
    """(encoder, tokenizer) of the T5 kind."""
    encoder, tokenizer = letters_t5()
    return seeded(encoder, seed), tokenizer


def umt5(seed: int = 13) -> tuple[Any, Any]:
    """(encoder, tokenizer) of the UMT5 kind, T5 with a position bias in every layer."""
    from transformers import UMT5Config, UMT5EncoderModel

    _, tokenizer = letters_t5()
    config = UMT5Config(vocab_size=4 + len(LETTERS), d_model=WIDTH, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    return seeded(UMT5EncoderModel(config), seed), tokenizer


def words(start: bool = False) -> Any:
    """A tokenizer whose tokens are words, signs, line ends and the marks of a chat: "a red cat" is 3 tokens.

    `start`: one token more stands in front, as Gemma has it.
    """
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    pieces = ["<pad>", "<unk>", "<|im_start|>", "<|im_end|>", "\n", *WORDS.split()]
    tokenizer = Tokenizer(models.WordLevel({piece: i for i, piece in enumerate(pieces)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"\n|\w+|[^\w\s]"), "removed", invert=True)
    if start:
        tokenizer.post_processor = processors.TemplateProcessing(single="<|im_start|> $A", special_tokens=[START])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", eos_token="<|im_end|>",
        additional_special_tokens=["<|im_start|>"], padding_side="right",
    )  # fmt: skip
    fast.chat_template = CHAT
    return fast


def language_options(layers: int = 2) -> dict[str, Any]:
    """Configuration shared by the language models that read `words`."""
    return {
        "vocab_size": 64, "hidden_size": WIDTH, "intermediate_size": 48, "num_hidden_layers": layers,
        "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 256,
        "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3,
    }  # fmt: skip


def qwen3(seed: int = 14) -> tuple[Any, Any]:
    """(encoder, tokenizer) as Z-Image has them."""
    from transformers import Qwen3Config, Qwen3Model

    return seeded(Qwen3Model(Qwen3Config(**language_options())), seed), words()


def qwen_vl(seed: int = 15) -> tuple[Any, Any]:
    """(encoder, tokenizer) as Qwen-Image has them; the part that sees pictures is there and not used."""
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    rope = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 10000.0}
    text = language_options() | {"rope_parameters": rope}
    del text["head_dim"]
    sight = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": WIDTH}
    config = Qwen2_5_VLConfig(text_config=text, vision_config=sight)
    return seeded(Qwen2_5_VLForConditionalGeneration(config), seed), words()


def gemma2(seed: int = 16) -> tuple[Any, Any]:
    """(encoder, tokenizer) as Lumina2 and SANA have them."""
    from transformers import Gemma2Config, Gemma2Model

    return seeded(Gemma2Model(Gemma2Config(**language_options())), seed), words(start=True)


def glm(seed: int = 17) -> tuple[Any, Any]:
    """(encoder, tokenizer) as CogView4 has them."""
    from transformers import GlmConfig, GlmModel

    return seeded(GlmModel(GlmConfig(**language_options())), seed), words(start=True)


def bert(seed: int = 18) -> tuple[Any, Any]:
    """(encoder, tokenizer) as HunyuanDiT has them."""
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=64, hidden_size=WIDTH, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=128,
    )  # fmt: skip
    return seeded(BertModel(config), seed), words()


def mistral3(seed: int = 19) -> tuple[Any, Any]:
    """(encoder, tokenizer) as FLUX.2 has them; the part that sees pictures is there and not used."""
    from transformers import Mistral3Config, Mistral3ForConditionalGeneration

    sight = {
        "model_type": "pixtral", "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
        "num_attention_heads": 2, "image_size": 32, "patch_size": 16,
    }  # fmt: skip
    config = Mistral3Config(text_config={"model_type": "mistral", **language_options()}, vision_config=sight)
    return seeded(Mistral3ForConditionalGeneration(config), seed), words()


def llama(seed: int = 20) -> tuple[Any, Any]:
    """(encoder, tokenizer) as HunyuanVideo has them."""
    from transformers import LlamaConfig, LlamaModel

    return seeded(LlamaModel(LlamaConfig(**language_options(3))), seed), words()


def llama_heads(seed: int = 20) -> tuple[Any, Any]:
    """(encoder, tokenizer) as HiDream has them: the model that writes, whose layers are read one by one."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(**language_options(3), attn_implementation="eager")
    return seeded(LlamaForCausalLM(config), seed), words()
