// The kernels of adapters against f64, and packed matrices: what they hold, and products with them.
#include "core/ops/adapter_ops.h"

#include "core/nn/packed_matrix.h"
#include "core/nn/resident_grad_sink.h"
#include "tests/core/gradient_error.h"

namespace thimble {
namespace {

TEST(AdapterOps, ScaledColumnsAndTheirGradient) {
  const auto arena = Arena::make_cpu(1 << 24);
  arena->set_poison(true);
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (const auto& [rows, cols] : {std::pair{1, 1}, {3, 7}, {129, 5}, {300, 333}}) {
      const Tensor x = random_tensor(*arena, dtype, Shape{rows, cols}, 1),
                   y = random_tensor(*arena, dtype, Shape{rows, cols}, 2),
                   by = random_tensor(*arena, dtype, Shape{cols}, 3),
                   more = random_tensor(*arena, dtype, Shape{cols}, 4);
      const std::vector<double> xs = values_of(x), ys = values_of(y), b = values_of(by),
                                m = values_of(more);
      std::vector<double> want(xs.size()), dots(static_cast<std::size_t>(cols), 1.0);
      for (std::size_t i = 0; i < xs.size(); ++i) {
        const std::size_t c = i % static_cast<std::size_t>(cols);
        want[i] = -0.75 * xs[i] * b[c] + m[c] + ys[i];
        dots[c] += 2 * xs[i] * ys[i];
      }
      const Tensor sums = Tensor::empty(*arena, MemoryTag::kWeights, DType::kF32, Shape{cols});
      std::fill_n(sums.data<float>(), cols, 1.0f);
      ops::column_dots(*arena, sums, {.a = x, .b = y, .scale = 2, .accumulate = true});
      expect_close(values_of(sums), dots, 1e-5, "column dots");
      ops::scale_columns(y, x, {.scale = -0.75f, .by = &by, .add = &more, .accumulate = true});
      expect_close(values_of(y), want, tolerance_of(dtype), "scaled columns");
    }
  }
}

TEST(AdapterOps, LengthsOfRows) {
  const auto arena = Arena::make_cpu(1 << 24);
  for (const auto& [rows, cols] : {std::pair{1, 1}, {5, 1}, {3, 17}, {70, 1100}}) {
    const Tensor x = random_tensor(*arena, DType::kF32, Shape{rows, cols}, 7);
    const Tensor squares = Tensor::empty(*arena, MemoryTag::kWeights, DType::kF32, Shape{rows}),
                 m = random_tensor(*arena, DType::kF32, Shape{rows}, 8),
                 out = Tensor::empty(*arena, MemoryTag::kWeights, DType::kF32, Shape{rows});
    ops::squares_of_rows(squares, x);
    ops::over_root(out, m, squares);
    std::vector<double> want = values_of(m);
    const std::vector<double> xs = values_of(x);
    for (std::size_t r = 0; r < want.size(); ++r) {
      double sum = 0;
      for (std::size_t c = 0; c < static_cast<std::size_t>(cols); ++c)
        sum += std::pow(xs[r * static_cast<std::size_t>(cols) + c], 2);
      want[r] /= std::sqrt(sum);
    }
    expect_close(values_of(out), want, 1e-5, "over root");
  }
}

// Random bytes are a packed matrix: what it holds is known.
struct RandomPacked {
  std::unique_ptr<PackedMatrices> all;
  std::vector<double> values;
};

RandomPacked random_packed(Arena& arena, PackedFormat format, std::int64_t rows,
                           std::int64_t cols) {
  RandomPacked made;
  made.all = std::make_unique<PackedMatrices>(
      arena, format, std::vector<ParamInfo>{{.name = "w", .shape = Shape{rows, cols}}});
  const ops::PackedValues& v = made.all->at(0).values;
  const CounterRandom random(5, RandomPurpose::kInit, hash_name("packed"));
  std::uint64_t n = 0;
  for (std::int64_t i = 0; i < v.codes.numel(); ++i)
    v.codes.data<std::uint8_t>()[i] = static_cast<std::uint8_t>(random.u32(n++));
  const bool int8 = format == PackedFormat::kInt8;
  for (std::int64_t i = 0; i < v.scales.numel(); ++i) {
    if (int8) {
      v.scales.data<float>()[i] = random.uniform(n++) * 0.01f;
    } else {
      v.scales.data<std::uint8_t>()[i] = static_cast<std::uint8_t>(random.u32(n++));
    }
  }
  for (std::int64_t i = 0; !int8 && i < 256; ++i)
    v.table.data<float>()[i] = static_cast<float>(i) / 128 - 1;
  for (std::int64_t i = 0; !int8 && i < v.second.numel(); ++i)
    v.second.data<float>()[i] = 0.1f + random.uniform(n++);
  for (std::int64_t i = 0; i < rows * cols; ++i) {
    if (int8) {
      made.values.push_back(
          static_cast<double>(static_cast<std::int8_t>(v.codes.data<std::uint8_t>()[i])) *
          static_cast<double>(v.scales.data<float>()[i / 128]));
      continue;
    }
    const unsigned pair = v.codes.data<std::uint8_t>()[i / 2];
    const double value = static_cast<double>(kNf4Values[i % 2 == 0 ? pair >> 4 : pair & 15u]);
    const float* second = v.second.data<float>();
    const double scale =
        static_cast<double>(v.table.data<float>()[v.scales.data<std::uint8_t>()[i / 64]]) *
            static_cast<double>(second[i / 64 / 256]) +
        static_cast<double>(second[v.second.numel() - 1]);
    made.values.push_back(value * scale);
  }
  return made;
}

TEST(PackedMatrix, TilesHoldItsElements) {
  const auto arena = Arena::make_cpu(1 << 26);
  arena->set_poison(true);
  for (const PackedFormat format : {PackedFormat::kInt8, PackedFormat::kNf4}) {
    for (const auto& [rows, cols] : {std::pair{1, 1}, {3, 5}, {7, 65}, {300, 129}}) {
      const RandomPacked packed = random_packed(*arena, format, rows, cols);
      for (const auto& [row, col] : {std::pair{0, 0}, {rows / 2, cols / 3}, {rows - 1, 0}}) {
        const Tensor tile =
            Tensor::empty(*arena, MemoryTag::kWeights, DType::kF32, Shape{rows - row, cols - col});
        ops::unpack(tile, packed.all->at(0).values, {.row = row, .col = col});
        std::vector<double> want;
        for (int r = row; r < rows; ++r) {
          for (int c = col; c < cols; ++c)
            want.push_back(packed.values[static_cast<std::size_t>(r * cols + c)]);
        }
        expect_close(values_of(tile), want, 1e-6, "tile");
      }
    }
  }
}

TEST(PackedMatrix, LinearLayerAndItsGradient) {
  const auto arena = Arena::make_cpu(1 << 28);
  arena->set_poison(true);
  for (const PackedFormat format : {PackedFormat::kInt8, PackedFormat::kNf4}) {
    // The last is more than a tile, both ways.
    for (const auto& [n, rows, cols] : {std::tuple{1, 1, 1}, {5, 7, 65}, {3, 1100, 1201}}) {
      const RandomPacked packed = random_packed(*arena, format, rows, cols);
      ParamTable params;
      const Weight bias{params.add({.name = "b", .shape = Shape{rows}, .role = ParamRole::kBias}),
                        0};
      ResidentParamStore store(*arena, params, DType::kF32, false);
      ResidentGradSink sink(*arena, params, {DType::kF32});
      ops::copy(store.writable(bias.id), random_tensor(*arena, DType::kF32, Shape{rows}, 3));
      SavePolicy keep;
      Tape tape(*arena, sink, keep, Recompute::kNone);
      Context ctx{.store = store, .arena = *arena, .dtype = DType::kF32, .tape = &tape};
      const Tensor x = random_tensor(*arena, DType::kF32, Shape{n, cols}, 1),
                   dy = random_tensor(*arena, DType::kF32, Shape{n, rows}, 2);
      std::vector<double> dx;
      Var in = tape.make(x);
      tape.record([id = in.id, &dx](Tape& t) { dx = values_of(t.take_grad(id)); });
      const Var y = packed_linear(ctx, in, packed.all->at(0), bias);
      const std::vector<double> xs = values_of(x), dys = values_of(dy),
                                b = values_of(store.view(bias.id));
      std::vector<double> want, want_dx(static_cast<std::size_t>(n * cols));
      for (int i = 0; i < n; ++i) {
        for (int o = 0; o < rows; ++o) {
          double sum = b[static_cast<std::size_t>(o)];
          for (int c = 0; c < cols; ++c) {
            const double w = packed.values[static_cast<std::size_t>(o * cols + c)];
            sum += xs[static_cast<std::size_t>(i * cols + c)] * w;
            want_dx[static_cast<std::size_t>(i * cols + c)] +=
                dys[static_cast<std::size_t>(i * rows + o)] * w;
          }
          want.push_back(sum);
        }
      }
      expect_close(values_of(y.value), want, 1e-5, "packed linear");
      tape.add_grad(y.id, dy);
      tape.backward();
      expect_gradient(dx, want_dx, DType::kF32, "dx");
    }
  }
}

}  // namespace
}  // namespace thimble
