# ruff: noqa: E501 - one case a line
"""The cases of `parity.packages`: public packages of PyPI, what is built of them, and what it is given.

The packages' names begin with n to z; nothing of the porter was written with them at hand. Nobody repairs what comes out.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Case:
    """One model.

    Attributes:
        package: name on PyPI.
        module: the import package, which is ported whole.
        name: of the case.
        imports: lines that the case's function needs.
        build: the model's expression.
        inputs: the expression of its inputs, a tuple; of (inputs, keyword inputs) with `keywords`.
        keywords: the keyword inputs' expression.
        others: installed packages that import torch and are ported with it.
    """

    package: str
    module: str
    name: str
    imports: str
    build: str
    inputs: str
    keywords: str = "{}"
    others: tuple[str, ...] = ()

    def source(self) -> str:
        """The file for ``--run``: PyTorch source."""
        return (
            f"import torch\n{self.imports}\n\n\ndef make():\n    return {self.build}, {self.inputs}, {self.keywords}\n"
        )


def _of(package: str, *cases: tuple[str, ...], module: str = "", others: tuple[str, ...] = ()) -> list[Case]:
    module = module or package.replace("-", "_")
    return [Case(package, module, *case, others=others) for case in cases]


_IMAGE = "(torch.randn(1, 3, 32, 32),)"
_TOKENS = "(torch.randint(0, 20, (1, 16)),)"
_SEQUENCE = "(torch.randn(1, 16, 32),)"


def _vit(name: str, kind: str, options: str, inputs: str = _IMAGE) -> tuple[str, ...]:
    return name, f"from vit_pytorch.{name} import {kind}", f"{kind}({options})", inputs


_VIT = "image_size=32, patch_size=8, num_classes=5, dim=32, depth=2, heads=2, mlp_dim=48, dim_head=16"
_VIT3D = (
    "image_size=16, image_patch_size=8, frames=4, frame_patch_size=2, num_classes=5, dim=36, depth=1, heads=2, mlp_dim=48, "
    "dim_head=16"
)


def _cv(file: str, maker: str, options: str = "num_classes=7") -> tuple[str, ...]:
    return (
        f"{file}.{maker}",
        f"from pytorchcv.models.{file} import {maker}",
        f"{maker}({options})",
        "(torch.randn(1, 3, 224, 224),)",
    )


CASES: tuple[Case, ...] = tuple(
    _of(
        "n-grammer-pytorch",
        (
            "VQNgrammer", "from n_grammer_pytorch import VQNgrammer",
            "VQNgrammer(num_clusters=8, dim_per_head=8, num_heads=2, ngram_vocab_size=61, ngram_emb_dim=4)", "(torch.randn(1, 12, 16),)",
        ),
        (
            "Ngrammer", "from n_grammer_pytorch.n_grammer_pytorch import Ngrammer",
            "Ngrammer(unigram_vocab_size=8, dim_per_head=8, num_heads=2, ngram_vocab_size=97, ngram_emb_dim=4)",
            "(torch.randn(1, 12, 16), torch.randint(0, 8, (1, 12, 2)))",
        ),
    )
    + _of(
        "nystrom-attention",
        ("Nystromformer", "from nystrom_attention import Nystromformer", "Nystromformer(dim=32, depth=2, dim_head=8, heads=2, num_landmarks=4)", _SEQUENCE),
        (
            "NystromAttention", "from nystrom_attention import NystromAttention", "NystromAttention(dim=32, dim_head=8, heads=2, num_landmarks=4)",
            "(torch.randn(1, 15, 32),)", "dict(mask=torch.ones(1, 15).bool())",
        ),
    )
    + _of(
        "perceiver-ar-pytorch",
        (
            "PerceiverAR", "from perceiver_ar_pytorch import PerceiverAR",
            "PerceiverAR(num_tokens=20, dim=32, depth=2, dim_head=64, heads=2, max_seq_len=24, cross_attn_seq_len=8)", "(torch.randint(0, 20, (1, 24)),)",
        ),
    )
    + _of(
        "perceiver-pytorch",
        (
            "Perceiver", "from perceiver_pytorch import Perceiver",
            "Perceiver(num_freq_bands=3, depth=2, max_freq=10., num_latents=6, latent_dim=24, latent_heads=2, cross_dim_head=8, latent_dim_head=8, num_classes=5)",
            "(torch.randn(1, 8, 8, 3),)",
        ),
        (
            "PerceiverIO", "from perceiver_pytorch import PerceiverIO",
            "PerceiverIO(dim=16, queries_dim=12, logits_dim=9, depth=2, num_latents=6, latent_dim=24, latent_heads=2, cross_dim_head=8, latent_dim_head=8)",
            "(torch.randn(1, 10, 16),)", "dict(queries=torch.randn(7, 12))",
        ),
    )
    + _of(
        "point-transformer-pytorch",
        (
            "PointTransformerLayer", "from point_transformer_pytorch import PointTransformerLayer",
            "PointTransformerLayer(dim=16, pos_mlp_hidden_dim=8, attn_mlp_hidden_mult=2, num_neighbors=4)",
            "(torch.randn(1, 10, 16), torch.randn(1, 10, 3))", "dict(mask=torch.ones(1, 10).bool())",
        ),
        (
            "MultiheadPointTransformerLayer", "from point_transformer_pytorch import MultiheadPointTransformerLayer",
            "MultiheadPointTransformerLayer(dim=16, heads=2, dim_head=8, pos_mlp_hidden_dim=8, attn_mlp_hidden_mult=2, num_neighbors=4)",
            "(torch.randn(1, 10, 16), torch.randn(1, 10, 3))",
        ),
    )
    + _of(
        "res-mlp-pytorch",
        ("ResMLP", "from res_mlp_pytorch import ResMLP", "ResMLP(image_size=32, patch_size=8, dim=24, depth=2, num_classes=5)", _IMAGE),
    )
    + _of(
        "rotary-embedding-torch",
        (
            "rotate_queries", "from rotary_embedding_torch import RotaryEmbedding\n\n\nclass Rotate(torch.nn.Module):\n    def __init__(self):\n"
            "        super().__init__()\n        self.rotary = RotaryEmbedding(dim=8)\n\n    def forward(self, x):\n"
            "        return self.rotary.rotate_queries_or_keys(x)",
            "Rotate()", "(torch.randn(1, 2, 12, 16),)",
        ),
    )
    + _of(
        "siren-pytorch",
        ("SirenNet", "from siren_pytorch import SirenNet", "SirenNet(dim_in=2, dim_hidden=24, dim_out=3, num_layers=3, w0_initial=30.)", "(torch.randn(5, 2),)"),
        (
            "SirenWrapper", "from siren_pytorch import SirenNet, SirenWrapper",
            "SirenWrapper(SirenNet(dim_in=2, dim_hidden=24, dim_out=3, num_layers=2), latent_dim=8, image_width=6, image_height=6)", "()",
            "dict(latent=torch.randn(8))",
        ),
    )
    + _of(
        "soft-moe-pytorch",
        ("SoftMoE", "from soft_moe_pytorch import SoftMoE", "SoftMoE(dim=32, seq_len=16, num_experts=4)", _SEQUENCE),
        ("DynamicSlotsSoftMoE", "from soft_moe_pytorch import DynamicSlotsSoftMoE", "DynamicSlotsSoftMoE(dim=32, num_experts=4, geglu=True)", _SEQUENCE),
    )
    + _of(
        "timesformer-pytorch",
        (
            "TimeSformer", "from timesformer_pytorch import TimeSformer",
            "TimeSformer(dim=32, image_size=16, patch_size=8, num_frames=3, num_classes=5, depth=2, heads=2, dim_head=16)", "(torch.randn(1, 3, 3, 16, 16),)",
            "dict(mask=torch.ones(1, 3).bool())",
        ),
    )
    + _of(
        "token-shift-gpt",
        ("TokenShiftGPT", "from token_shift_gpt import TokenShiftGPT", "TokenShiftGPT(num_tokens=20, dim=32, max_seq_len=16, depth=2)", _TOKENS),
    )
    + _of(
        "transformer-in-transformer",
        (
            "TNT", "from transformer_in_transformer import TNT",
            "TNT(image_size=32, patch_dim=32, pixel_dim=12, patch_size=8, pixel_size=4, depth=2, num_classes=5, heads=2, dim_head=8)", _IMAGE,
        ),
    )
    + _of(
        "uformer-pytorch",
        ("Uformer", "from uformer_pytorch import Uformer", "Uformer(dim=16, stages=2, num_blocks=1, window_size=4, dim_head=8, heads=2)", _IMAGE),
        (
            "Uformer with time", "from uformer_pytorch import Uformer", "Uformer(dim=16, stages=2, num_blocks=1, window_size=4, dim_head=8, heads=2, time_emb=True)",
            "(torch.randn(1, 3, 32, 32),)", "dict(time=torch.arange(1).float())",
        ),
    )
    + _of(
        "vit-pytorch",
        _vit("vit", "ViT", _VIT),
        _vit("simple_vit", "SimpleViT", _VIT),
        _vit("simple_vit_with_register_tokens", "SimpleViT", _VIT),
        _vit("simple_vit_with_qk_norm", "SimpleViT", _VIT),
        _vit("simple_flash_attn_vit", "SimpleViT", _VIT),
        _vit("vit_for_small_dataset", "ViT", _VIT),
        _vit("parallel_vit", "ViT", _VIT),
        _vit("vit_3d", "ViT", _VIT3D, "(torch.randn(1, 3, 4, 16, 16),)"),
        _vit("simple_vit_3d", "SimpleViT", _VIT3D, "(torch.randn(1, 3, 4, 16, 16),)"),
        _vit("vit_1d", "ViT", "seq_len=32, patch_size=8, num_classes=5, dim=32, depth=2, heads=2, mlp_dim=48", "(torch.randn(1, 3, 32),)"),
        _vit("simple_vit_with_fft", "SimpleViT", _VIT + ", freq_patch_size=8"),
        _vit("vit_with_patch_merger", "ViT", _VIT),
        _vit("learnable_memory_vit", "ViT", _VIT),
        _vit("deepvit", "DeepViT", _VIT),
        _vit("cait", "CaiT", "image_size=32, patch_size=8, num_classes=5, dim=32, depth=2, cls_depth=1, heads=2, mlp_dim=48, dim_head=16"),
        _vit("t2t", "T2TViT", "dim=32, image_size=32, depth=1, heads=2, mlp_dim=48, num_classes=5, t2t_layers=((7, 4), (3, 2), (3, 2))"),
        _vit("cvt", "CvT", "num_classes=5, s1_emb_dim=16, s2_emb_dim=24, s3_emb_dim=32, s3_depth=1, s3_heads=2, s2_heads=1"),
        _vit("pit", "PiT", "image_size=32, patch_size=8, dim=32, num_classes=5, depth=(1, 1), heads=2, mlp_dim=48"),
        _vit("levit", "LeViT", "image_size=32, num_classes=5, stages=2, dim=(32, 48), depth=1, heads=(2, 4), mlp_mult=2"),
        _vit("mobile_vit", "MobileViT", "image_size=(64, 64), dims=[24, 32, 40], channels=[8, 8, 12, 12, 16, 16, 24, 24, 32, 32, 64], num_classes=5", "(torch.randn(1, 3, 64, 64),)"),
        _vit("regionvit", "RegionViT", "dim=(8, 12, 16, 24), depth=(1, 1, 1, 1), window_size=2, num_classes=5", "(torch.randn(1, 3, 64, 64),)"),
        _vit("max_vit", "MaxViT", "num_classes=5, dim_conv_stem=16, dim=16, dim_head=8, depth=(1, 1), window_size=2"),
        _vit("nest", "NesT", "image_size=32, patch_size=4, dim=16, heads=2, num_hierarchies=2, block_repeats=(1, 1), num_classes=5"),
        _vit("twins_svt", "TwinsSVT", "num_classes=5, s1_emb_dim=8, s2_emb_dim=12, s3_emb_dim=16, s4_emb_dim=16, s1_local_patch_size=4, s1_global_k=4, s2_local_patch_size=2, s2_global_k=4, s3_local_patch_size=2, s3_global_k=2, s3_depth=1, s4_local_patch_size=2, s4_global_k=1", "(torch.randn(1, 3, 64, 64),)"),
        _vit("xcit", "XCiT", "image_size=32, patch_size=8, num_classes=5, dim=32, depth=2, cls_depth=1, heads=2, mlp_dim=48, dim_head=16, local_patch_kernel_size=3"),
        _vit("cct", "CCT", "img_size=(32, 32), embedding_dim=32, n_conv_layers=1, num_layers=1, num_heads=2, mlp_ratio=1., num_classes=5, kernel_size=3, stride=1, padding=1, pooling_kernel_size=3, pooling_stride=2, pooling_padding=1"),
        _vit("vivit", "ViT", _VIT3D.replace("depth=1", "spatial_depth=1, temporal_depth=1"), "(torch.randn(1, 3, 4, 16, 16),)"),
        _vit("ats_vit", "ViT", "image_size=32, patch_size=8, num_classes=5, dim=32, depth=2, max_tokens_per_depth=(12, 8), heads=2, mlp_dim=48"),
        _vit("rvt", "RvT", _VIT),
        _vit("scalable_vit", "ScalableViT", "num_classes=5, dim=16, heads=(2, 2), depth=(1, 1), ssa_dim_key=(8, 8), ssa_dim_value=(8, 8), reduction_factor=(2, 1), window_size=(4, 4)"),
    )
    + _of(
        "rela-transformer",
        ("ReLATransformer", "from rela_transformer import ReLATransformer", "ReLATransformer(num_tokens=20, dim=32, depth=2, max_seq_len=16, dim_head=8, heads=2)", _TOKENS),
    )
    + _of(
        "segformer-pytorch",
        (
            "Segformer", "from segformer_pytorch import Segformer",
            "Segformer(dims=(8, 16, 16, 24), heads=(1, 2, 2, 4), ff_expansion=(2, 2, 2, 2), reduction_ratio=(4, 2, 1, 1), num_layers=1, decoder_dim=16, num_classes=4)",
            "(torch.randn(1, 3, 64, 64),)",
        ),
    )
    + _of(
        "swin-transformer-pytorch",
        (
            "SwinTransformer", "from swin_transformer_pytorch import SwinTransformer",
            "SwinTransformer(hidden_dim=16, layers=(2, 2, 2, 2), heads=(2, 2, 2, 2), head_dim=8, window_size=2, num_classes=5)", "(torch.randn(1, 3, 64, 64),)",
        ),
    )
    + _of(
        "pytorch-tabnet",
        (
            "TabNet", "from pytorch_tabnet.tab_network import TabNet",
            "TabNet(6, 3, n_d=4, n_a=4, n_steps=2, group_attention_matrix=torch.eye(6))", "(torch.randn(8, 6),)",
        ),
    )
    + _of(
        "pytorch-tcn",
        ("TCN", "from pytorch_tcn import TCN", "TCN(num_inputs=6, num_channels=[8, 8, 10], kernel_size=3)", "(torch.randn(2, 6, 20),)"),
        ("TCN with skips", "from pytorch_tcn import TCN", "TCN(6, [8, 8], use_norm='layer_norm', activation='gelu', causal=False, use_skip_connections=True)", "(torch.randn(2, 6, 20),)"),
    )
    + _of(
        "pytorch-msssim",
        ("SSIM", "from pytorch_msssim import SSIM", "SSIM(data_range=1.0)", "(torch.rand(1, 3, 24, 24), torch.rand(1, 3, 24, 24))"),
        ("MS_SSIM", "from pytorch_msssim import MS_SSIM", "MS_SSIM(data_range=1.0, channel=1)", "(torch.rand(1, 1, 170, 170), torch.rand(1, 1, 170, 170))"),
    )
    + _of(
        "resnest",
        ("resnest", "from resnest.torch.resnet import ResNet, Bottleneck", "ResNet(Bottleneck, [1, 1, 1, 1], radix=2, groups=1, bottleneck_width=16, deep_stem=True, stem_width=8, avg_down=True, num_classes=5)", "(torch.randn(2, 3, 64, 64),)"),
    )
    + _of(
        "snac",
        (
            "SNAC", "from snac import SNAC",
            "SNAC(encoder_dim=8, encoder_rates=[2, 3], decoder_dim=24, decoder_rates=[3, 2], attn_window_size=None, codebook_size=16, codebook_dim=4, vq_strides=[2, 1])",
            "(torch.randn(1, 1, 96),)",
        ),
    )
    + _of(
        "squeezeformer",
        (
            "Squeezeformer", "from squeezeformer.model import Squeezeformer",
            "Squeezeformer(num_classes=7, input_dim=20, encoder_dim=16, num_encoder_layers=4, reduce_layer_index=1, recover_layer_index=3, num_attention_heads=2, conv_kernel_size=5)",
            "(torch.randn(2, 40, 20), torch.tensor([40, 36]))",
        ),
    )
    + _of(
        "pytorch-crf",
        ("CRF", "from torchcrf import CRF", "CRF(4)", "(torch.randn(6, 2, 4), torch.randint(0, 4, (6, 2)))"),
        module="torchcrf",
    )
    + _of(
        "pytorchcv",
        _cv("resnet", "resnet10"),
        _cv("mobilenet", "mobilenet_wd4"),
        _cv("mobilenetv3", "mobilenetv3_small_w7d20"),
        _cv("shufflenetv2", "shufflenetv2_wd2"),
        _cv("squeezenet", "squeezenet_v1_1"),
        _cv("ghostnet", "ghostnet"),
        _cv("diaresnet", "diaresnet10"),
        _cv("octresnet", "octresnet10_ad2"),
    )
    + _of(
        "nwt-pytorch",
        ("Memcodes", "from nwt_pytorch import Memcodes", "Memcodes(dim=32, heads=4, num_codes=6, temperature=1.)", _SEQUENCE),
    )
    + _of(
        "pytorch-tsmixer",
        ("TSMixer", "from torchtsmixer import TSMixer", "TSMixer(12, 5, input_channels=3, output_channels=2, ff_dim=8)", "(torch.randn(4, 12, 3),)"),
        (
            "TSMixerExt", "from torchtsmixer import TSMixerExt",
            "TSMixerExt(12, 5, input_channels=3, extra_channels=2, hidden_channels=8, static_channels=4, ff_dim=8)",
            "(torch.randn(4, 12, 3), torch.randn(4, 12, 2), torch.randn(4, 5, 2), torch.randn(4, 4))",
        ),
        module="torchtsmixer",
    )
    + _of(
        "rtdl-revisiting-models",
        ("MLP", "from rtdl_revisiting_models import MLP", "MLP(d_in=6, d_out=2, n_blocks=2, d_block=12, dropout=0.1)", "(torch.randn(5, 6),)"),
        (
            "ResNet", "from rtdl_revisiting_models import ResNet",
            "ResNet(d_in=6, d_out=2, n_blocks=2, d_block=12, d_hidden=None, d_hidden_multiplier=2.0, dropout1=0.1, dropout2=0.0)", "(torch.randn(5, 6),)",
        ),
        (
            "FTTransformer", "from rtdl_revisiting_models import FTTransformer",
            "FTTransformer(n_cont_features=4, cat_cardinalities=[3, 5], d_out=2, **{**FTTransformer.get_default_kwargs(1), 'd_block': 16, 'attention_n_heads': 2})",
            "(torch.randn(5, 4), torch.randint(0, 3, (5, 2)))",
        ),
    )
    + _of(
        "triangle-multiplicative-module",
        (
            "TriangleMultiplicativeModule", "from triangle_multiplicative_module import TriangleMultiplicativeModule",
            "TriangleMultiplicativeModule(dim=8, hidden_dim=12, mix='outgoing')", "(torch.randn(1, 6, 6, 8),)", "dict(mask=torch.ones(1, 6, 6).bool())",
        ),
    )
    + _of(
        "resnet-pytorch",
        ("resnet18", "from resnet_pytorch import ResNet", "ResNet.from_name('resnet18')", "(torch.randn(2, 3, 48, 48),)"),
    )
    + _of(
        "unet",
        ("UNet2D", "from unet import UNet2D", "UNet2D(in_channels=1, out_classes=3, num_encoding_blocks=3, out_channels_first_layer=4, normalization='batch', padding=1)", "(torch.randn(1, 1, 16, 16),)"),
        ("UNet3D", "from unet import UNet3D", "UNet3D(in_channels=1, out_classes=2, num_encoding_blocks=2, out_channels_first_layer=4, residual=True, upsampling_type='linear', padding=1)", "(torch.randn(1, 1, 8, 8, 8),)"),
    )
    + _of(
        "vision-transformer-pytorch",
        ("ViT-B_16", "from vision_transformer_pytorch.model import VisionTransformer\nfrom vision_transformer_pytorch.utils import get_model_params", "VisionTransformer(get_model_params('ViT-B_16', dict(image_size=32, num_classes=5, num_layers=1, emb_dim=24, mlp_dim=32, num_heads=2)))", "(torch.randn(1, 3, 32, 32),)"),
    )
    + _of(
        "pointnet",
        ("PointNetCls", "from pointnet.pointnet import PointNetCls, STN", "PointNetCls(3, 4, stn_3d=STN(in_dim=3))", "(torch.randn(3, 3, 12),)"),
    )
    + _of(
        "self-attention-cv",
        ("ViT", "from self_attention_cv.vit import ViT", "ViT(img_dim=32, in_channels=3, patch_dim=8, num_classes=5, dim=24, blocks=1, heads=2, dim_linear_block=32)", _IMAGE),
        ("AxialAttentionBlock", "from self_attention_cv.axial_attention_deeplab import AxialAttentionBlock", "AxialAttentionBlock(in_channels=8, dim=8, heads=2)", "(torch.randn(1, 8, 8, 8),)"),
        ("Linformer", "from self_attention_cv.linformer import LinformerEncoder", "LinformerEncoder(dim=24, tokens=16, k=4, blocks=1, heads=2, dim_linear_block=32)", "(torch.randn(1, 16, 24),)"),
        ("BottleneckBlock", "from self_attention_cv.bottleneck_transformer import BottleneckBlock", "BottleneckBlock(in_channels=8, fmap_size=(6, 6), heads=2, out_channels=16, pooling=True)", "(torch.randn(2, 8, 6, 6),)"),
        ("UNETR", "from self_attention_cv.UnetTr import UNETR", "UNETR(img_shape=(16, 16, 16), input_dim=1, output_dim=2, embed_dim=24, patch_size=16, num_heads=2, ext_layers=[1, 2, 3, 4], base_filters=4, dim_linear_block=32)", "(torch.randn(1, 1, 16, 16, 16),)"),
    )
    + _of(
        "yet-another-retnet",
        (
            "MultiScaleRetention", "from yet_another_retnet.retention import MultiScaleRetention", "MultiScaleRetention(32, 4)",
            "(torch.randn(1, 8, 32), torch.randn(1, 8, 32), torch.randn(1, 8, 32))",
        ),
        ("RetNet", "from yet_another_retnet.retnet import RetNet", "RetNet(num_tokens=20, d_model=32, nhead=4, num_layers=2, dim_feedforward=48)", "(torch.randint(0, 20, (1, 16)), torch.randint(0, 20, (1, 16)))"),
    )
    + _of(
        "torch-dct",
        ("LinearDCT", "from torch_dct import LinearDCT", "LinearDCT(8, 'dct', norm='ortho')", "(torch.randn(3, 8),)"),
        (
            "dct_2d", "import torch_dct\n\n\nclass Transform(torch.nn.Module):\n    def forward(self, x):\n"
            "        return torch_dct.dct_2d(x, norm='ortho'), torch_dct.idct(x), torch_dct.dct1(x)",
            "Transform()", "(torch.randn(3, 8, 8),)",
        ),
    )
    + _of(
        "nbeats-pytorch",
        (
            "NBeatsNet", "from nbeats_pytorch.model import NBeatsNet",
            "NBeatsNet(stack_types=('trend', 'seasonality', 'generic'), forecast_length=4, backcast_length=8, hidden_layer_units=12, thetas_dim=(3, 4, 4))",
            "(torch.randn(2, 8),)",
        ),
    )
    + _of(
        "nfnets-pytorch",
        ("WSConv2d", "from nfnets.base import WSConv2d, ScaledStdConv2d", "torch.nn.Sequential(WSConv2d(3, 8, 3), torch.nn.ReLU(), ScaledStdConv2d(8, 4, 3))", "(torch.randn(1, 3, 12, 12),)"),
        module="nfnets",
    )
    + _of(
        "pytorch-revgrad",
        ("RevGrad", "from pytorch_revgrad import RevGrad", "torch.nn.Sequential(torch.nn.Linear(4, 4), RevGrad(alpha=2.0), torch.nn.Linear(4, 2))", "(torch.randn(3, 4),)"),
    )
    + _of(
        "slot-attention",
        ("SlotAttentionExperimental", "from slot_attention import SlotAttentionExperimental", "SlotAttentionExperimental(num_slots=3, dim=16, iters=2, hidden_dim=24)", "(torch.randn(1, 10, 16),)"),
    )
    + _of(
        "x-transformers",
        ("Decoder", "from x_transformers import TransformerWrapper, Decoder", "TransformerWrapper(num_tokens=20, max_seq_len=16, attn_layers=Decoder(dim=32, depth=2, heads=2, attn_dim_head=16))", _TOKENS),
        (
            "rotary", "from x_transformers import TransformerWrapper, Decoder",
            "TransformerWrapper(num_tokens=20, max_seq_len=16, attn_layers=Decoder(dim=32, depth=2, heads=2, attn_dim_head=32, rotary_pos_emb=True, use_rmsnorm=True, ff_glu=True, ff_swish=True))", _TOKENS,
        ),
        (
            "encoder", "from x_transformers import TransformerWrapper, Encoder",
            "TransformerWrapper(num_tokens=20, max_seq_len=16, attn_layers=Encoder(dim=32, depth=2, heads=2, attn_dim_head=16, rel_pos_bias=True, alibi_pos_bias=False))", _TOKENS,
            "dict(mask=torch.ones(1, 16).bool())",
        ),
        (
            "image", "from x_transformers import ViTransformerWrapper, Encoder",
            "ViTransformerWrapper(image_size=32, patch_size=8, num_classes=5, attn_layers=Encoder(dim=32, depth=2, heads=2, attn_dim_head=16))", _IMAGE,
        ),
        (
            "continuous", "from x_transformers import ContinuousTransformerWrapper, Decoder",
            "ContinuousTransformerWrapper(dim_in=8, dim_out=6, max_seq_len=16, attn_layers=Decoder(dim=32, depth=2, heads=2, attn_dim_head=16, alibi_pos_bias=True))", "(torch.randn(1, 16, 8),)",
        ),
        others=("torch_einops_utils",),
    )
    + _of(
        "x-unet",
        ("XUnet", "from x_unet import XUnet", "XUnet(dim=8, channels=3, dim_mults=(1, 2), num_self_attn_per_stage=(0, 1), num_blocks_per_stage=(1, 1), nested_unet_depths=(1, 0), consolidate_upsample_fmaps=True, weight_standardize=True, attn_heads=2, attn_dim_head=8)", "(torch.randn(1, 3, 16, 16),)"),
        others=("torch_einops_utils",),
    )
    # A second round, of packages that nobody had looked at: each ran once as the tool was (docs/port_source.md).
    + _of(
        "bottleneck-transformer-pytorch",
        (
            "BottleStack", "from bottleneck_transformer_pytorch import BottleStack",
            "BottleStack(dim=8, fmap_size=8, dim_out=16, num_layers=2, heads=2, dim_head=8, downsample=True, rel_pos_emb=True)", "(torch.randn(1, 8, 8, 8),)",
        ),
    )
    + _of(
        "cross-transformers-pytorch",
        (
            "CrossTransformer", "from cross_transformers_pytorch import CrossTransformer\n\n\nclass Both(torch.nn.Module):\n    def __init__(self):\n        super().__init__()\n"
            "        self.net, self.cross = torch.nn.Conv2d(3, 16, 3), CrossTransformer(dim=16, dim_key=8, dim_value=8)\n\n"
            "    def forward(self, x, s):\n        return self.cross(self.net, x, s)",
            "Both()", "(torch.randn(1, 3, 8, 8), torch.randn(1, 2, 3, 3, 8, 8))",
        ),
    )
    + _of("glom-pytorch", ("Glom", "from glom_pytorch import Glom", "Glom(dim=16, levels=3, image_size=16, patch_size=4)", "(torch.randn(1, 3, 16, 16),)", "dict(iters=3)"))
    + _of("halonet-pytorch", ("HaloAttention", "from halonet_pytorch import HaloAttention", "HaloAttention(dim=8, block_size=4, halo_size=2, dim_head=8, heads=2)", "(torch.randn(1, 8, 8, 8),)"))
    + _of("isab-pytorch", ("ISAB", "from isab_pytorch import ISAB", "ISAB(dim=16, heads=2, num_latents=4)", "(torch.randn(1, 6, 16),)", "dict(mask=torch.ones(1, 6).bool())"))
    + _of("lambda-networks", ("LambdaLayer", "from lambda_networks import LambdaLayer", "LambdaLayer(dim=8, dim_out=8, n=8, dim_k=4, heads=2, dim_u=1)", "(torch.randn(2, 8, 8, 8),)"))
    + _of(
        "memory-efficient-attention-pytorch",
        ("Attention", "from memory_efficient_attention_pytorch import Attention", "Attention(dim=16, dim_head=8, heads=2, causal=True, memory_efficient=True, q_bucket_size=4, k_bucket_size=4)", "(torch.randn(1, 8, 16),)"),
        ("FlashAttention", "from memory_efficient_attention_pytorch import FlashAttention", "FlashAttention(dim=16, dim_head=8, heads=2, causal=True, q_bucket_size=4, k_bucket_size=4)", "(torch.randn(1, 8, 16),)"),
    )
    + _of("mlp-mixer-pytorch", ("MLPMixer", "from mlp_mixer_pytorch import MLPMixer", "MLPMixer(image_size=16, channels=3, patch_size=4, dim=16, depth=2, num_classes=5)", "(torch.randn(1, 3, 16, 16),)"))
    + _of("palm-pytorch", ("PaLM", "from palm_pytorch import PaLM", "PaLM(num_tokens=20, dim=32, depth=2, heads=2, dim_head=16)", _TOKENS))
    + _of("vgg-pytorch", ("vgg11", "from vgg_pytorch import VGG", "VGG.from_name('vgg11')", "(torch.randn(1, 3, 224, 224),)"))
)  # fmt: skip
