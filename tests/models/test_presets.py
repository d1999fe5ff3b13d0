"""Published architectures: parameter counts to the unit, against the makers' figures and against transformers."""

from dataclasses import replace

import pytest

from jaxllm.models import decoder_spec
from jaxllm.models.declare import count
from jaxllm.models.presets import PRESETS, preset
from jaxllm.plan.cache import cache_bytes
from jaxllm.plan.parameters import totals

PUBLISHED = {
    "gpt2": 124_439_808,
    "gpt2-medium": 354_823_168,
    "gpt2-large": 774_030_080,
    "gpt2-xl": 1_557_611_200,
    "gpt-oss-20b": 20_914_757_184,
    "gpt-oss-120b": 116_829_156_672,
    "llama1-7b": 6_738_415_616,
    "llama2-7b": 6_738_415_616,
    "llama2-13b": 13_015_864_320,
    "llama2-70b": 68_976_648_192,
    "llama3-8b": 8_030_261_248,
    "llama3-70b": 70_553_706_496,
    "llama3-405b": 405_853_388_800,
    "llama3.1-8b": 8_030_261_248,
    "llama3.1-70b": 70_553_706_496,
    "llama3.1-405b": 405_853_388_800,
    "llama3.2-1b": 1_235_814_400,
    "llama3.2-3b": 3_212_749_824,
    "mistral-7b": 7_241_732_096,
    "mixtral-8x7b": 46_702_792_704,
    "mixtral-8x22b": 140_630_071_296,
    "qwen2.5-0.5b": 494_032_768,
    "qwen2.5-1.5b": 1_543_714_304,
    "qwen2.5-3b": 3_085_938_688,
    "qwen2.5-7b": 7_615_616_512,
    "qwen2.5-14b": 14_770_033_664,
    "qwen2.5-32b": 32_763_876_352,
    "qwen2.5-72b": 72_706_203_648,
    "qwen3-0.6b": 596_049_920,
    "qwen3-1.7b": 1_720_574_976,
    "qwen3-4b": 4_022_468_096,
    "qwen3-8b": 8_190_735_360,
    "qwen3-14b": 14_768_307_200,
    "qwen3-32b": 32_762_123_264,
    "qwen3-30b-a3b": 30_532_122_624,
    "qwen3-235b-a22b": 235_093_634_560,
    "qwen3-next-80b-a3b": 79_674_391_296,
    "gemma-2b": 2_506_172_416,
    "gemma-7b": 8_537_680_896,
    "gemma2-2b": 2_614_341_888,
    "gemma2-9b": 9_241_705_984,
    "gemma2-27b": 27_227_128_320,
    "gemma3-270m": 268_098_176,
    "gemma3-1b": 999_885_952,
    "gemma3-4b": 3_880_099_328,
    "deepseek-v2": 235_741_434_880,
    "deepseek-v3": 671_026_419_200,
    "phi3-mini": 3_821_079_552,
    "smollm2-135m": 134_515_008,
    "smollm2-360m": 361_821_120,
    "smollm2-1.7b": 1_711_376_384,
    "olmo2-7b": 7_298_617_344,
    "olmo2-13b": 13_716_198_400,
    "granite3.3-8b": 8_170_864_640,
    "stablelm-3b": 2_795_443_200,
    "pythia-160m": 162_322_944,
    "pythia-410m": 405_334_016,
    "pythia-1.4b": 1_414_647_808,
    "pythia-6.9b": 6_857_302_016,
    "pythia-12b": 11_846_072_320,
    "falcon-7b": 6_921_720_704,
    "falcon-40b": 41_303_293_952,
    "mamba-130m": 129_135_360,
    "mamba-370m": 371_516_416,
    "mamba-790m": 793_204_224,
    "mamba-1.4b": 1_372_178_432,
    "mamba-2.8b": 2_768_345_600,
    "mamba2-130m": 128_989_632,
    "mamba2-370m": 368_346_624,
    "mamba2-1.3b": 1_343_757_312,
    "mamba2-2.7b": 2_702_599_680,
    "jamba-v0.1": 51_570_323_328,
    "rwkv-4-169m": 169_342_464,
    "rwkv-4-430m": 430_397_440,
}
ACTIVE = {
    "mixtral-8x7b": 12_879_925_248,
    "deepseek-v3": 37_552_297_472,
    "jamba-v0.1": 12_110_311_296,
}


def test_every_preset_is_counted_here():
    assert set(PUBLISHED) == set(PRESETS)


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters(name):
    assert count(decoder_spec(preset(name))) == PUBLISHED[name]


@pytest.mark.parametrize("name", ACTIVE)
def test_active_parameters(name):
    assert totals(preset(name)) == (PUBLISHED[name], ACTIVE[name])


def test_active_is_all_without_experts():
    assert totals(preset("gemma2-9b")) == (9_241_705_984,) * 2


def test_deepseek_v3_by_part():
    """What the paper's sizes come to: attention and experts of one layer, the two tables."""
    layers = decoder_spec(preset("deepseek-v3")).segments[1][0]
    assert count(layers.mixer) == 58 * 187_107_328
    assert count(layers.channel) == 58 * 11_320_164_608
    assert count(layers.channel.experts) == 58 * 256 * 44_040_192
    assert count(decoder_spec(preset("deepseek-v3")).segments[0][0].channel) == 3 * 396_361_728


def test_jamba_has_attention_where_it_should():
    mixers = [block.mixer.kind for block in preset("jamba-v0.1").blocks()]
    assert [i for i, kind in enumerate(mixers) if kind == "attention"] == [4, 12, 20, 28]
    experts = [block.channel.kind for block in preset("jamba-v0.1").blocks()]
    assert [i for i, kind in enumerate(experts) if kind == "moe"] == list(range(1, 32, 2))


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_can_decode(name):
    """Its mixers have caches, and these grow with the text or do not grow at all."""
    model = replace(preset(name), compute_dtype="bfloat16")
    short, long = (cache_bytes(model, context) for context in (1024, 2048))
    assert 0 < short <= long <= 2 * short


def test_an_unknown_name_is_told_its_neighbour():
    with pytest.raises(ValueError, match=r"unknown model 'lama3-8b'; did you mean llama3-8b\?"):
        preset("lama3-8b")


# Hyperparameters as the makers' config.json have them, for those whose total is not in the list of a paper.
THEIRS = {
    "gpt-oss-20b": ("GptOss", {"num_hidden_layers": 24, "num_local_experts": 32}),
    "mixtral-8x22b": (
        "Mixtral",
        {
            "vocab_size": 32_768,
            "hidden_size": 6144,
            "intermediate_size": 16_384,
            "num_hidden_layers": 56,
            "num_attention_heads": 48,
        },
    ),
    "qwen3-next-80b-a3b": ("Qwen3Next", {}),
    "gemma3-270m": (
        "Gemma3Text",
        {
            "vocab_size": 262_144,
            "hidden_size": 640,
            "intermediate_size": 2048,
            "num_hidden_layers": 18,
            "num_attention_heads": 4,
            "num_key_value_heads": 1,
            "head_dim": 256,
        },
    ),
    "olmo2-7b": ("Olmo2", {"vocab_size": 100_352}),
    "granite3.3-8b": (
        "Granite",
        {
            "vocab_size": 49_159,
            "intermediate_size": 12_800,
            "num_hidden_layers": 40,
            "num_key_value_heads": 8,
            "tie_word_embeddings": True,
        },
    ),
    "stablelm-3b": ("StableLm", {}),
    "falcon-7b": ("Falcon", {}),
    "falcon-40b": (
        "Falcon",
        {
            "hidden_size": 8192,
            "num_hidden_layers": 60,
            "num_attention_heads": 128,
            "num_kv_heads": 8,
            "new_decoder_architecture": True,
        },
    ),
    "mamba-370m": ("Mamba", {"hidden_size": 1024, "num_hidden_layers": 48}),
    "mamba2-1.3b": (
        "Mamba2",
        {
            "vocab_size": 50_288,
            "hidden_size": 2048,
            "num_hidden_layers": 48,
            "num_heads": 64,
            "n_groups": 1,
            "tie_word_embeddings": True,
        },
    ),
    "rwkv-4-430m": ("Rwkv", {"hidden_size": 1024, "num_hidden_layers": 24}),
    "jamba-v0.1": ("Jamba", {}),
}


@pytest.mark.parametrize("name", THEIRS)
def test_transformers_counts_the_same(name):
    """Its model on the meta device, which holds shapes only."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    family, sizes = THEIRS[name]
    config = getattr(transformers, f"{family}Config")(**sizes)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    assert sum(p.numel() for p in model.parameters()) == PUBLISHED[name]
