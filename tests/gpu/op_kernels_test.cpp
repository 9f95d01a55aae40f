// The GPU's ops against the CPU's: odd sizes, both element types. On the emulated GPU, and, in a
// build with CUDA, on a real one.
#include "tests/gpu/op_kernels.h"

#include <gtest/gtest.h>

#include <numeric>

namespace thimble {
namespace {

constexpr std::int64_t kSizes[] = {1, 7, 128, 1001};

TEST_P(GpuOpKernels, ElementwiseOpsGiveTheBitsOfTheCpu) {
  for (const std::int64_t n : kSizes) {
    const Shape shape{n};
    const Tensor a = random(shape, 1), b = random(shape, 2), c = random(shape, 3);
    for (const DType to : {DType::kF32, DType::kBF16}) {
      const Tensor want = empty(shape, to), got = empty(shape, to);
      cpu().cast(want.raw(), to, a.raw(), GetParam(), n);
      cuda::cast(gpu_.at(got), to, gpu_.at(a), GetParam(), n);
      gpu_.fetch();
      expect_same(got, want, "cast");
      const Tensor sum = random(shape, 4, 1.0f, to), same = copy_of(sum);
      cpu().accumulate(sum.raw(), to, a.raw(), GetParam(), n);
      cuda::accumulate(gpu_.at(same), to, gpu_.at(a), GetParam(), n);
      gpu_.fetch();
      expect_same(same, sum, "accumulate");
      const void* pieces[] = {a.raw(), b.raw(), c.raw()};
      for (const bool accumulate : {false, true}) {
        SumInOrderArgs args{.n = n,
                            .pieces = pieces,
                            .count = 3,
                            .dtype = GetParam(),
                            .dst = sum.raw(),
                            .dst_dtype = to,
                            .accumulate = accumulate};
        cpu().sum_in_order(args);
        const void* const there[] = {gpu_.at(a), gpu_.at(b), gpu_.at(c)};
        args.pieces = there;
        args.dst = gpu_.at(same);
        cuda::sum_in_order(args);
        gpu_.fetch();
        expect_same(same, sum, "sum in order");
      }
    }
    const Tensor want = empty(shape), got = empty(shape), want2 = empty(shape), got2 = empty(shape);
    const ElementwiseArgs here{
        .n = n, .dtype = GetParam(), .in = {a.raw(), b.raw()}, .out = want.raw()};
    const auto there = [&] {
      return ElementwiseArgs{
          .n = n, .dtype = GetParam(), .in = {gpu_.at(a), gpu_.at(b)}, .out = gpu_.at(got)};
    };
    cpu().add(here);
    cuda::add(there());
    gpu_.fetch();
    expect_same(got, want, "add");
    cpu().swiglu(here);
    cuda::swiglu(there());
    gpu_.fetch();
    expect_near(got, want, "swiglu");
    for (const bool gpu : {false, true}) {
      table(gpu).swiglu_grad({.n = n,
                              .dtype = GetParam(),
                              .dout = at(gpu, c),
                              .gate = at(gpu, a),
                              .up = at(gpu, b),
                              .dgate = at(gpu, gpu ? got : want),
                              .dup = at(gpu, gpu ? got2 : want2)});
    }
    gpu_.fetch();
    expect_near(got, want, "swiglu gate gradient");
    expect_near(got2, want2, "swiglu up gradient");
  }
}

TEST_P(GpuOpKernels, EightBitWeights) {
  for (const std::int64_t n : kSizes) {
    const Tensor x = random(Shape{n}, 1, 1.0f, DType::kF32);
    const std::int64_t groups = (n + kInt8Group - 1) / kInt8Group;
    const Tensor codes = empty(Shape{n}, DType::kU8), same = empty(Shape{n}, DType::kU8),
                 scales = empty(Shape{groups}, DType::kF32),
                 same_scales = empty(Shape{groups}, DType::kF32);
    cpu().quantize(codes.raw(), scales.data<float>(), x.data<float>(), n);
    cuda::quantize(gpu_.at(same), gpu_.at<float>(same_scales), gpu_.at<float>(x), n);
    gpu_.fetch();
    EXPECT_EQ(std::memcmp(codes.raw(), same.raw(), static_cast<std::size_t>(n)), 0);
    expect_same(same_scales, scales, "scales");
    const Tensor want = empty(Shape{n}), got = empty(Shape{n});
    cpu().dequantize(want.raw(), GetParam(), codes.raw(), scales.data<float>(), n);
    cuda::dequantize(gpu_.at(got), GetParam(), gpu_.at(codes), gpu_.at<float>(scales), n);
    gpu_.fetch();
    expect_same(got, want, "dequantize");
  }
}

TEST_P(GpuOpKernels, TransposeAndSquares) {
  for (const auto& [rows, cols] : {std::pair{1, 1}, std::pair{33, 70}, std::pair{64, 5}}) {
    const Tensor x = random(Shape{rows, cols}, 1);
    const Tensor want = empty(Shape{cols, rows}), got = empty(Shape{cols, rows});
    cpu().transpose(want.raw(), x.raw(), rows, cols, dtype_size(GetParam()));
    cuda::transpose(gpu_.at(got), gpu_.at(x), rows, cols, dtype_size(GetParam()));
    gpu_.fetch();
    expect_same(got, want, "transpose");
    std::vector<double> squares(static_cast<std::size_t>(rows)), same(squares);
    cpu().row_squares(squares.data(), x.raw(), GetParam(), rows, cols);
    cuda::row_squares(gpu_.at(same), gpu_.at(x), GetParam(), rows, cols);
    gpu_.fetch();
    expect_close(same, squares, 1e-6, "squares");
  }
}

TEST_P(GpuOpKernels, NormsAndSumsOverTokens) {
  const std::int64_t rows = 300;
  for (const std::int64_t cols : {std::int64_t{24}, std::int64_t{37}, std::int64_t{520}}) {
    const Tensor x = random(Shape{rows, cols}, 1), w = random(Shape{cols}, 2),
                 dy = random(Shape{rows, cols}, 3);
    Tensor out[2], rstd[2], dx[2], partial[2], sums[2], dw[2];
    for (int side = 0; side < 2; ++side) {
      const bool gpu = side == 1;
      out[side] = empty(x.shape());
      rstd[side] = empty(Shape{rows}, DType::kF32);
      dx[side] = random(x.shape(), 4);
      partial[side] = empty(Shape{norm_chunks(rows), cols}, DType::kF32);
      sums[side] = empty(Shape{norm_chunks(rows), cols}, DType::kF32);
      dw[side] = random(Shape{cols}, 5);
      const RmsNormArgs forward{.rows = rows,
                                .cols = cols,
                                .dtype = GetParam(),
                                .eps = 1e-5f,
                                .x = at(gpu, x),
                                .w = at(gpu, w),
                                .y = at(gpu, out[side]),
                                .rstd = at<float>(gpu, rstd[side])};
      table(gpu).rms_norm(forward);
      const RmsNormGradArgs backward{.rows = rows,
                                     .cols = cols,
                                     .dtype = GetParam(),
                                     .x = at(gpu, x),
                                     .w = at(gpu, w),
                                     .rstd = at<float>(gpu, rstd[side]),
                                     .dy = at(gpu, dy),
                                     .dx = at(gpu, dx[side]),
                                     .accumulate_dx = true,
                                     .partial_dw = at<float>(gpu, partial[side])};
      table(gpu).rms_norm_grad(backward);
      table(gpu).column_sums(at<float>(gpu, sums[side]), at(gpu, dy), GetParam(), rows, cols);
      table(gpu).fold_rows({.chunks = norm_chunks(rows),
                            .cols = cols,
                            .partial = at<float>(gpu, partial[side]),
                            .out = at(gpu, dw[side]),
                            .out_dtype = GetParam(),
                            .accumulate = true});
      if (gpu) gpu_.fetch();
    }
    expect_near(out[1], out[0], "norm");
    expect_near(rstd[1], rstd[0], "rstd");
    expect_near(dx[1], dx[0], "norm gradient");
    expect_near(partial[1], partial[0], "weight gradient in parts");
    expect_near(dw[1], dw[0], "weight gradient");
    expect_same(sums[1], sums[0], "column sums");
  }
}

TEST_P(GpuOpKernels, RopeAndEmbedding) {
  const std::int64_t tokens = 11, heads = 3, dim = 8, vocab = 5;
  const Tensor angles = random(Shape{20, dim}, 1, 1.0f, DType::kF32);
  std::vector<std::int32_t> positions, ids;
  for (int t = 0; t < tokens; ++t) {
    positions.push_back((t * 7) % 20);
    ids.push_back((t * 3) % 5);
  }
  const Tensor position = ints(positions), id = ints(ids);
  for (const bool inverse : {false, true}) {
    const Tensor want = random(Shape{tokens, heads * dim}, 2), got = copy_of(want);
    RopeArgs args{.tokens = tokens,
                  .heads = heads,
                  .head_dim = dim,
                  .dtype = GetParam(),
                  .table = angles.data<float>(),
                  .positions = position.data<std::int32_t>(),
                  .inverse = inverse,
                  .x = want.raw()};
    cpu().rope(args);
    args.table = gpu_.at<float>(angles);
    args.positions = gpu_.at<std::int32_t>(position);
    args.x = gpu_.at(got);
    cuda::rope(args);
    gpu_.fetch();
    expect_near(got, want, "rope");
  }
  for (const std::int64_t cols : {std::int64_t{24}, std::int64_t{13}}) {
    const Tensor weights = random(Shape{vocab, cols}, 3), dy = random(Shape{tokens, cols}, 4);
    const Tensor want = empty(Shape{tokens, cols}), got = empty(Shape{tokens, cols});
    for (const bool gpu : {false, true}) {
      table(gpu).embedding({.tokens = tokens,
                            .cols = cols,
                            .dtype = GetParam(),
                            .table = at(gpu, weights),
                            .ids = at<std::int32_t>(gpu, id),
                            .out = at(gpu, gpu ? got : want)});
    }
    gpu_.fetch();
    expect_same(got, want, "embedding");
    std::vector<std::int32_t> order(static_cast<std::size_t>(tokens));
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](std::int32_t a, std::int32_t b) {
      return ids[static_cast<std::size_t>(a)] < ids[static_cast<std::size_t>(b)];
    });
    const Tensor sorted = ints(order);
    for (const DType dtype : {DType::kF32, DType::kBF16}) {
      const Tensor grad = random(Shape{vocab, cols}, 5, 1.0f, dtype), same = copy_of(grad);
      for (const bool gpu : {false, true}) {
        table(gpu).embedding_grad({.tokens = tokens,
                                   .cols = cols,
                                   .table_dtype = dtype,
                                   .dy_dtype = GetParam(),
                                   .dy = at(gpu, dy),
                                   .ids = at<std::int32_t>(gpu, id),
                                   .order = at<std::int32_t>(gpu, sorted),
                                   .dtable = at(gpu, gpu ? same : grad)});
      }
      gpu_.fetch();
      expect_same(same, grad, "embedding gradient");
    }
  }
}

TEST_P(GpuOpKernels, CrossEntropy) {
  const std::int64_t rows = 5;
  for (const std::int64_t vocab : {std::int64_t{3}, std::int64_t{61}, std::int64_t{1500}}) {
    const Tensor targets = ints({0, 2, 1, 2, 0});
    const Tensor weights = empty(Shape{rows}, DType::kF32);
    for (int r = 0; r < rows; ++r)
      weights.data<float>()[r] = r == 3 ? 0.0f : 0.5f * static_cast<float>(1 + r);
    for (const bool want_grad : {false, true}) {
      Tensor logits[2], losses[2], grads[2];
      for (int side = 0; side < 2; ++side) {
        logits[side] = random(Shape{rows, vocab}, 1, 5.0f, DType::kF32);
        losses[side] = empty(Shape{rows}, DType::kF32);
        const bool gpu = side == 1;
        table(gpu).cross_entropy({.rows = rows,
                                  .vocab = vocab,
                                  .logits = at<float>(gpu, logits[side]),
                                  .targets = at<std::int32_t>(gpu, targets),
                                  .weights = at<float>(gpu, weights),
                                  .losses = at<float>(gpu, losses[side]),
                                  .grad_scale = 0.7f,
                                  .grad_dtype = GetParam(),
                                  .want_grad = want_grad,
                                  .softcap = vocab == 61 ? 3.0f : 0.0f});
        if (gpu) gpu_.fetch();
        if (!want_grad) continue;
        grads[side] = empty(Shape{rows, vocab});
        const std::int64_t bytes = vocab * dtype_size(GetParam());
        for (std::int64_t r = 0; r < rows; ++r) {
          std::memcpy(static_cast<char*>(grads[side].raw()) + r * bytes,
                      logits[side].data<float>() + r * vocab, static_cast<std::size_t>(bytes));
        }
      }
      expect_close(values_of(losses[1]), values_of(losses[0]), 1e-5, "losses");
      if (want_grad) expect_near(grads[1], grads[0], "gradient of logits");
    }
  }
}

TEST_P(GpuOpKernels, Attention) {
  struct Case {
    std::int64_t batch, q_len, kv_len, heads, kv_heads, head_dim, window;
    float softcap = 0;
  };
  for (const Case& c :
       {Case{2, 37, 37, 4, 2, 8, 0}, Case{1, 70, 70, 3, 1, 40, 9}, Case{2, 1, 45, 2, 2, 16, 0},
        // In bf16 the kernels for tensor cores serve these.
        Case{2, 37, 37, 4, 2, 64, 0}, Case{1, 150, 150, 2, 1, 64, 0},
        Case{1, 200, 200, 1, 1, 64, 50}, Case{1, 99, 99, 2, 1, 128, 0},
        Case{2, 1, 145, 2, 2, 128, 0}, Case{1, 65, 65, 1, 1, 128, 3},
        // But not these.
        Case{1, 70, 70, 2, 1, 64, 9, 2.0f}}) {
    const Shape queries{c.batch * c.q_len, c.heads * c.head_dim},
        keys{c.batch * c.kv_len, c.kv_heads * c.head_dim};
    const Tensor q = random(queries, 1), k = random(keys, 2), v = random(keys, 3),
                 dout = random(queries, 4);
    std::vector<std::int32_t> starts;
    for (std::int64_t b = 0; b < c.batch; ++b) {
      for (std::int64_t i = 0; i < c.q_len; ++i)
        starts.push_back(c.q_len > 1 && i >= 20 && b == 0 ? 20 : 0);
    }
    const Tensor segment_start = ints(starts);
    const AttentionSpec spec{.batch = c.batch,
                             .q_len = c.q_len,
                             .kv_len = c.kv_len,
                             .heads = c.heads,
                             .kv_heads = c.kv_heads,
                             .head_dim = c.head_dim,
                             .kv_stride = c.kv_heads * c.head_dim,
                             .window = c.window,
                             .scale = 0.3f,
                             .softcap = c.softcap,
                             .dtype = GetParam()};
    Tensor out[2], lse[2], dq[2], dk[2], dv[2];
    for (int side = 0; side < 2; ++side) {
      const bool gpu = side == 1;
      out[side] = empty(queries);
      lse[side] = empty(Shape{c.batch, c.heads, c.q_len}, DType::kF32);
      dq[side] = empty(queries);
      dk[side] = empty(keys);
      dv[side] = empty(keys);
      const std::int64_t bytes =
          std::max<std::int64_t>(1, table(gpu).attention_workspace_bytes(spec, true));
      const Tensor scratch = empty(Shape{bytes}, DType::kU8);
      const AttentionArgs args{.q = at(gpu, q),
                               .k = at(gpu, k),
                               .v = at(gpu, v),
                               .segment_start = at<std::int32_t>(gpu, segment_start),
                               .out = at(gpu, out[side]),
                               .lse = at<float>(gpu, lse[side]),
                               .workspace = at(gpu, scratch)};
      table(gpu).attention(spec, args);
      if (c.q_len == c.kv_len)
        table(gpu).attention_grad(spec, {.forward = args,
                                         .dout = at(gpu, dout),
                                         .dq = at(gpu, dq[side]),
                                         .dk = at(gpu, dk[side]),
                                         .dv = at(gpu, dv[side])});
      if (gpu) gpu_.fetch();
    }
    expect_near(out[1], out[0], "output");
    expect_close(values_of(lse[1]), values_of(lse[0]), 1e-2 * tolerance() + 1e-5, "lse");
    if (c.q_len != c.kv_len) continue;
    expect_near(dq[1], dq[0], "dq");
    expect_near(dk[1], dk[0], "dk");
    expect_near(dv[1], dv[0], "dv");
  }
}

INSTANTIATE_TEST_SUITE_P(DTypes, GpuOpKernels, testing::Values(DType::kF32, DType::kBF16));

}  // namespace
}  // namespace thimble
