"""Small models of transformers that are no decoders, with odd sizes and random weights; needs PyTorch."""

from __future__ import annotations

import torch
import transformers as theirs

TEXT = {
    "vocab_size": 61,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 34,
    "max_position_embeddings": 40,
}
MODERN = TEXT | {"local_attention": 6, "num_hidden_layers": 5, "bos_token_id": 1, "eos_token_id": 2}
MODERN |= {"pad_token_id": 0, "cls_token_id": 1, "sep_token_id": 2}
T5 = {
    "vocab_size": 61,
    "d_model": 24,
    "d_kv": 10,
    "d_ff": 34,
    "num_layers": 3,
    "num_decoder_layers": 2,
    "num_heads": 3,
    "relative_attention_num_buckets": 10,
    "relative_attention_max_distance": 20,
    "decoder_start_token_id": 0,
}
BART = {
    "vocab_size": 61,
    "d_model": 24,
    "encoder_layers": 3,
    "decoder_layers": 2,
    "encoder_attention_heads": 3,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 34,
    "decoder_ffn_dim": 26,
    "max_position_embeddings": 64,
    "scale_embedding": True,
}
IMAGE = {
    "hidden_size": 24,
    "intermediate_size": 34,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "image_size": 16,
    "patch_size": 5,
}
DECODER = {
    "vocab_size": 61,
    "hidden_size": 20,
    "intermediate_size": 30,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 6,
    "max_position_embeddings": 128,
}


def _llava(tower, text, **settings):
    config = theirs.LlavaConfig(
        vision_config=tower, text_config=text, image_token_index=60, image_seq_length=9, **settings
    )
    return theirs.LlavaForConditionalGeneration(config)


MODELS = {
    "bert": lambda: theirs.BertForMaskedLM(theirs.BertConfig(**TEXT)),
    "bert-classifier": lambda: theirs.BertForSequenceClassification(theirs.BertConfig(**TEXT, num_labels=5)),
    "bert-model": lambda: theirs.BertModel(theirs.BertConfig(**TEXT)),
    "roberta": lambda: theirs.RobertaForMaskedLM(theirs.RobertaConfig(**TEXT, type_vocab_size=1)),
    "roberta-classifier": lambda: theirs.RobertaForSequenceClassification(theirs.RobertaConfig(**TEXT, num_labels=4)),
    "modernbert": lambda: theirs.ModernBertForMaskedLM(theirs.ModernBertConfig(**MODERN)),
    "modernbert-classifier": lambda: theirs.ModernBertForSequenceClassification(
        theirs.ModernBertConfig(**MODERN, num_labels=3, classifier_pooling="mean", attention_bias=True, mlp_bias=True)
    ),
    "t5": lambda: theirs.T5ForConditionalGeneration(theirs.T5Config(**T5)),
    "t5-gated": lambda: theirs.T5ForConditionalGeneration(
        theirs.T5Config(**T5, feed_forward_proj="gated-gelu", tie_word_embeddings=False)
    ),
    "bart": lambda: theirs.BartForConditionalGeneration(theirs.BartConfig(**BART)),
    "siglip": lambda: theirs.SiglipVisionModel(theirs.SiglipVisionConfig(**IMAGE)),
    "clip": lambda: theirs.CLIPVisionModel(theirs.CLIPVisionConfig(**IMAGE, projection_dim=20)),
    "vit": lambda: theirs.ViTModel(theirs.ViTConfig(**IMAGE | {"image_size": 15})),
    "llava": lambda: _llava(theirs.CLIPVisionConfig(**IMAGE, projection_dim=20), theirs.LlamaConfig(**DECODER)),
    "llava-siglip": lambda: _llava(
        theirs.SiglipVisionConfig(**IMAGE),
        theirs.Qwen2Config(**DECODER),
        vision_feature_select_strategy="full",
        vision_feature_layer=-1,
    ),
}


def make(name: str):
    torch.manual_seed(0)
    return randomized(MODELS[name]())


def randomized(model):
    """Every parameter, biases and scales too, away from the value that would hide it."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in [*model.parameters(), *(b for n, b in model.named_buffers() if n == "final_logits_bias")]:
            parameter += 0.25 * torch.randn(parameter.shape, generator=generator)
    return model.eval()
