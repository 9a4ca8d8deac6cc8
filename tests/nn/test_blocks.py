"""Encoder and decoder are built as asked."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from scalex_scvi.nn import Decoder, Encoder, FullyConnectedBlock


def test_published_encoder() -> None:
    encoder = Encoder(20)
    (layer,) = encoder.layers
    assert layer.linear.weight.shape == (1024, 20)
    assert (layer.norm.eps, layer.norm.momentum) == (1e-5, 0.1)
    assert isinstance(layer.activation, nn.ReLU)
    assert layer.dropout is None
    mean, var = encoder(torch.rand(4, 20))
    assert mean.shape == var.shape == (4, 10)
    assert (var > 0).all()


def test_depth_width_and_dropout() -> None:
    encoder = Encoder(20, 3, n_hidden=16, n_layers=3, activation="tanh", dropout_rate=0.2)
    assert [layer.linear.out_features for layer in encoder.layers] == [16, 16, 16]
    assert all(layer.dropout.p == 0.2 for layer in encoder.layers)
    assert encoder(torch.rand(4, 20))[0].shape == (4, 3)


def test_decoder_depends_on_the_batch_only_through_its_norm() -> None:
    decoder = Decoder(3, 20, n_batch=2, n_layers=1, n_hidden=8).eval()
    z = torch.randn(5, 3)
    first, second = (decoder(z, torch.full((5,), batch)) for batch in (0, 1))
    torch.testing.assert_close(first, second)  # fresh norms are equal
    decoder.norm.bias.data[1] += 1
    torch.testing.assert_close(decoder(z, torch.ones(5)), first + 1)


def test_unknown_activation() -> None:
    with pytest.raises(ValueError, match="must be one of .*'relu'.*got 'swish'"):
        FullyConnectedBlock(2, 2, activation="swish")


def test_encoder_needs_a_layer() -> None:
    with pytest.raises(ValueError, match="at least 1, got 0"):
        Encoder(20, n_layers=0)


def test_a_decoder_that_follows_decodes_shifted_batches_alike() -> None:
    decoder = Decoder(3, 7, n_batch=2).eval()
    torch.nn.init.normal_(decoder.norm.weight)
    z, batch = torch.randn(600, 3), torch.arange(600) % 2
    shifted = z + torch.tensor([[0.5, -1.0, 2.0], [0.0, 3.0, 1.0]])[batch]
    expected = decoder(z, batch)
    decoder.follow(z, shifted, batch)
    torch.testing.assert_close(decoder(shifted, batch), expected, rtol=1e-4, atol=1e-5)
