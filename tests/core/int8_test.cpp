// 8-bit weights: what they hold, in which groups, and how they are rounded.
#include "core/base/numeric.h"
#include "tests/core/expect_close.h"

namespace thimble {
namespace {

TEST(Int8Test, EachGroupIsWithinHalfAStep) {
  const auto arena = Arena::make_cpu(1 << 24);
  for (const Shape& shape : {Shape{1, 1}, Shape{3, 43}, Shape{16, 8}, Shape{300, 77}}) {
    const Tensor x = random_tensor(*arena, DType::kF32, shape, 5);
    const std::int64_t n = x.numel();
    for (std::int64_t i = 0; i < n; ++i)
      x.data<float>()[i] *= static_cast<float>(1 + i / kInt8Group);  // groups of other sizes
    const Tensor codes = Tensor::empty(*arena, MemoryTag::kWeights, DType::kU8, shape),
                 scales = Tensor::empty(*arena, MemoryTag::kWeights, DType::kF32,
                                        Shape{ceil_div(n, kInt8Group)}),
                 back = Tensor::empty(*arena, MemoryTag::kWeights, DType::kF32, shape),
                 bf16 = Tensor::empty(*arena, MemoryTag::kWeights, DType::kBF16, shape);
    ops::quantize(codes, scales, x);
    ops::dequantize(back, codes, scales);
    ops::dequantize(bf16, codes, scales);
    for (std::int64_t i = 0; i < n; ++i) {
      const float scale = scales.data<float>()[i / kInt8Group];
      EXPECT_LE(std::abs(back.data<float>()[i] - x.data<float>()[i]), 0.501f * scale) << i;
      EXPECT_EQ(bf16.data<BF16>()[i].bits, to_bf16(back.data<float>()[i]).bits);
    }
    // What was read from 8 bits goes back to the same ones.
    const std::vector<std::uint8_t> first(codes.data<std::uint8_t>(),
                                          codes.data<std::uint8_t>() + n);
    ops::quantize(codes, scales, back);
    EXPECT_TRUE(std::equal(first.begin(), first.end(), codes.data<std::uint8_t>()));
  }
}

TEST(Int8Test, GroupsOfZeros) {
  const auto arena = Arena::make_cpu(1 << 20);
  const Tensor x = Tensor::empty(*arena, MemoryTag::kWeights, DType::kF32, Shape{2, 128}),
               codes = Tensor::empty(*arena, MemoryTag::kWeights, DType::kU8, Shape{2, 128}),
               scales = Tensor::empty(*arena, MemoryTag::kWeights, DType::kF32, Shape{2});
  ops::zero(x);
  ops::quantize(codes, scales, x);
  ops::dequantize(x, codes, scales);
  EXPECT_EQ(ops::sum_squares(*arena, x), 0);
}

}  // namespace
}  // namespace thimble
