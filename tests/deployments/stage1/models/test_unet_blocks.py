from __future__ import annotations

import torch

from deployments.stage1.models.unet_blocks import MultiviewTransformer, ResnetBlock, Upsample


def test_fused_upsampling_is_the_convolution_of_repeated_pixels() -> None:
    torch.manual_seed(0)
    layer, x = Upsample(6).requires_grad_(False), torch.randn(2, 6, 5, 5)
    expected = layer(x).pixels
    layer.fuse()
    found = layer(x).pixels
    assert found.shape == (2, 6, 10, 10)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_a_skip_stands_behind_the_input_s_channels() -> None:
    torch.manual_seed(0)
    block = ResnetBlock(48, 32, 16, groups=8, eps=1e-5).requires_grad_(False)
    x, shift = torch.randn(2, 48, 4, 4), torch.randn(2, 32)
    found = block(x[:, :20], shift, x[:, 20:]).pixels
    torch.testing.assert_close(found, block(x, shift).pixels, atol=1e-5, rtol=1e-4)


def test_a_transformer_may_find_its_last_bias_in_the_pictures() -> None:
    torch.manual_seed(0)
    layer = MultiviewTransformer(32, 2, 16, views=5, groups=8).requires_grad_(False)
    x = torch.randn(10, 32, 6, 6).contiguous(memory_format=torch.channels_last)
    text = layer.block.attn2.context_keys(torch.randn(10, 3, 16))
    expected = layer(x, text)
    biased = x + layer.last_bias()[:, None, None]
    torch.testing.assert_close(layer(biased, text, biased=True), expected, atol=1e-5, rtol=1e-4)
    layer.fuse()
    torch.testing.assert_close(layer(x, text), expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(layer(biased, text, biased=True), expected, atol=1e-5, rtol=1e-4)
