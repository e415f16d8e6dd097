"""Networks' mathematics, and images."""

from __future__ import annotations

import numpy as np

from .case import (
    BOOLS,
    CUBE,
    UNIT,
    VECTOR,
    A,
    case,
    floats,
    int32,
    ints,
    rng,
)  # fmt: skip

_IMAGE, _KERNEL = floats(2, 7, 8, 4), floats(3, 3, 4, 6)
_PROBABILITIES = rng.dirichlet(np.ones(4), 3).astype(np.float32)
_ONE_HOT = np.eye(4, dtype=np.float32)[[0, 3, 1]]
_PICTURE = rng.random((2, 7, 9, 3)).astype(np.float32)
_FIRST = rng.random((2, 3, 7, 9)).astype(np.float32)
_BYTES = (255 * _PICTURE).astype(np.uint8)
_LOGITS = 2 * floats(3, 8, 6)
_LENGTHS = int32(8, 5, 7)
_LABELS = int32([2, 2, 3, 3], [1, 4, 5, 1], [3, 1, 1, 2])
_MAPS = np.array([[1.1, 0.2, -1, 0.1, 0.9, 2, 0, 0], [0.7, 0.5, 1.3, -0.3, 1.2, 0.4, 0, 0]],
                 np.float32)  # fmt: skip
_CORNERS = np.array([[[0, 0], [8, 0], [0, 6], [8, 6]]] * 2, np.float32)
_MOVED = _CORNERS + np.array([[[1, 0], [-1, 1], [0, -1], [0, 0]], [[0, 0]] * 4], np.float32)
_AT = (rng.random((2, 5, 4)) * 14 - 3).astype(np.float32)
_FILLS = ("constant", "nearest", "wrap", "mirror", "reflect")
_QUERY, _KEY = floats(2, 5, 4, 8), floats(2, 6, 2, 8)

CASES = [
    # encoding and losses
    case("one_hot", ints(5), 4), case("one_hot", ints(2, 3), 5, axis=1),
    case("one_hot", int32(-1, 9), 3), case("multi_hot", ints(3, 2), 5),
    case("categorical_crossentropy", _ONE_HOT, _PROBABILITIES),
    case("categorical_crossentropy", _ONE_HOT, A, from_logits=True),
    case("categorical_crossentropy", _ONE_HOT, _PROBABILITIES, axis=0),
    case("sparse_categorical_crossentropy", ints(3, high=4), _PROBABILITIES),
    case("sparse_categorical_crossentropy", ints(3, 1, high=4), A, from_logits=True),
    case("binary_crossentropy", BOOLS.astype(np.float32), UNIT**2),
    case("binary_crossentropy", BOOLS.astype(np.float32), 9 * A, from_logits=True),
    case("ctc_loss", _LABELS, _LOGITS, int32(3, 2, 4), _LENGTHS),
    case("ctc_loss", _LABELS - 1, _LOGITS, int32(3, 2, 4), _LENGTHS, mask_index=5),
    case("ctc_decode", _LOGITS, _LENGTHS, gradient=False),
    case("ctc_decode", _LOGITS, _LENGTHS, gradient=False, merge_repeated=False, mask_index=5),
    case("ctc_decode", _LOGITS, _LENGTHS, strategy="beam_search", beam_width=5, top_paths=3,
         gradient=False),
    # convolution and pooling
    *[case("conv", _IMAGE, _KERNEL, **kw) for kw in (
        {}, {"padding": "same"}, {"strides": 2, "padding": "same"}, {"strides": (2, 3)},
        {"dilation_rate": 2, "padding": "same"})],
    case("conv", _IMAGE, floats(3, 3, 2, 6)), case("conv", floats(2, 9, 3), floats(3, 3, 5)),
    case("conv", floats(1, 5, 5, 5, 2), floats(2, 2, 2, 2, 3), padding="same"),
    case("conv", floats(2, 4, 7, 8), _KERNEL, data_format="channels_first"),
    case("depthwise_conv", _IMAGE, floats(3, 3, 4, 2), padding="same"),
    case("separable_conv", _IMAGE, floats(3, 3, 4, 1), floats(1, 1, 4, 5)),
    *[case("conv_transpose", floats(2, 4, 5, 3), floats(k, k, 2, 3), strides=s, padding=p,
           output_padding=e, dilation_rate=d)
      for k, s, p, e, d in ((3, 1, "valid", None, 1), (3, 2, "same", None, 1),
                            (2, 3, "valid", None, 1), (3, 2, "same", 1, 1),
                            (2, 2, "valid", 1, 2), (1, 2, "same", 0, 1))],
    case("conv_transpose", floats(2, 3, 5), floats(3, 2, 3), strides=2,
         data_format="channels_first"),
    *[case(name, _IMAGE, 2, **kw) for name in ("max_pool", "average_pool") for kw in (
        {"strides": 2, "padding": "same"}, {"strides": 1, "padding": "same"}, {"strides": 3})],
    case("max_pool", _IMAGE, (3, 2), strides=(1, 2)),
    case("max_pool", floats(2, 9, 3), 2, strides=2),
    case("average_pool", floats(2, 3, 7, 8), 3, data_format="channels_first", strides=3),
    *[case(f"adaptive_{kind}_pool", x, size, **kw) for kind in ("average", "max")
      for x, size, kw in ((_IMAGE, (3, 4), {}), (_IMAGE, 2, {"data_format": "channels_first"}),
                          (floats(2, 7, 3), 4, {}), (floats(1, 4, 5, 6, 2), (2, 3, 5), {}))],
    # normalization and attention
    case("moments", CUBE, [0, 1]), case("moments", CUBE, 1, keepdims=True),
    case("batch_normalization", CUBE, VECTOR, VECTOR**2, -1, offset=VECTOR, scale=VECTOR),
    case("batch_normalization", CUBE, floats(3), floats(3) ** 2, 1),
    case("layer_normalization", CUBE, VECTOR, VECTOR, epsilon=1e-3),
    case("rms_normalization", CUBE, VECTOR, epsilon=1e-3),
    case("dot_product_attention", _QUERY, _KEY, floats(2, 6, 2, 8)),
    case("dot_product_attention", _QUERY, _QUERY, _QUERY, is_causal=True, bias=floats(1, 4, 5, 5)),
    case("dot_product_attention", _QUERY, _KEY, _KEY, mask=rng.random((2, 1, 5, 6)) > 0.3,
         scale=0.2),
    # blocks
    case("depth_to_space", floats(2, 3, 2, 8), 2), case("space_to_depth", floats(2, 4, 6, 3), 2),
    case("depth_to_space", floats(1, 8, 3, 2), 2, data_format="channels_first"),
    case("space_to_depth", floats(1, 3, 4, 2), 2, data_format="channels_first"),
    case("unfold", floats(2, 3, 7, 8), (2, 3), dilation=(2, 1), padding=(1, 0), stride=(2, 1)),
    case("unfold", floats(2, 3, 6, 8), 2, stride=2),
    case("fold", floats(2, 12, 12), (6, 8), 2, stride=2),
    case("fold", floats(2, 18, 24), (7, 8), (2, 3), dilation=(2, 1), padding=(1, 0), stride=(2, 1)),
]  # fmt: skip

IMAGES = [
    case("image.rgb_to_grayscale", _PICTURE), case("image.rgb_to_grayscale", _BYTES),
    case("image.rgb_to_grayscale", _FIRST, data_format="channels_first"),
    case("image.rgb_to_hsv", _PICTURE), case("image.hsv_to_rgb", _PICTURE),
    case("image.pad_images", _PICTURE, top_padding=1, left_padding=2, target_height=12,
         target_width=12),
    case("image.crop_images", _FIRST[0], top_cropping=1, bottom_cropping=1, left_cropping=2,
         right_cropping=1, data_format="channels_first"),
    case("image.extract_patches", _PICTURE, 3),
    case("image.extract_patches", _PICTURE, (2, 3), strides=2, padding="same"),
    case("image.extract_patches", _PICTURE, 2, strides=1, dilation_rate=2),
    case("image.extract_patches_3d", floats(2, 4, 5, 6, 2), 2),
    case("image.gaussian_blur", _FIRST, (4, 3), (0.5, 2.0), data_format="channels_first"),
    case("image.gaussian_blur", _PICTURE[0], data_format="channels_last"),
    case("image.sobel_edges", _PICTURE),
    case("image.ssim", _PICTURE, np.abs(1 - _PICTURE), filter_size=5, tolerance=1e-4),
    *[case("image.resize", _PICTURE, (4, 13), i, antialias=a)
      for i in ("bilinear", "nearest", "lanczos3", "lanczos5", "bicubic") for a in (False, True)],
    case("image.resize", _BYTES, (5, 5)), case("image.resize", _BYTES, (11, 5), "bicubic"),
    case("image.resize", _PICTURE, (4, 10), crop_to_aspect_ratio=True),
    case("image.resize", _PICTURE, (10, 4), pad_to_aspect_ratio=True, fill_value=0.5),
    *[case("image.scale_and_translate", _PICTURE, (2, 8, 6, 3), np.float32([1.3, 0.6]),
           np.float32([0.5, -1.3]), (1, 2), method, antialias=False, tolerance=1e-4)
      for method in ("linear", "cubic", "lanczos3", "lanczos5")],
    case("image.scale_and_translate", _PICTURE, (2, 8, 6, 3), np.float32([1.3, 0.6]),
         np.float32([0.5, -1.3]), (1, 2), "linear", gradient=False),
    *[case("image.map_coordinates", _PICTURE[0, :, :, 0], _AT, order, mode, fill_value=0.3,
           tolerance=1e-4) for order in (0, 1) for mode in _FILLS],
    case("image.map_coordinates", _BYTES[0, :, :, 0], _AT, 1, gradient=False),
    *[case("image.affine_transform", _PICTURE, _MAPS, i, mode, fill_value=0.2, gradient=False)
      for i in ("nearest", "bilinear") for mode in ("constant", "reflect")],
    case("image.affine_transform", _PICTURE[0], _MAPS[0], gradient=False),
    *[case("image.perspective_transform", _PICTURE, _CORNERS, _MOVED, i, fill_value=0.1,
           gradient=False, tolerance=1e-4) for i in ("nearest", "bilinear")],
    case("image.elastic_transform", _PICTURE, alpha=0.0, sigma=1.0, traced=False),
]  # fmt: skip
