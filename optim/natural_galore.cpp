#include "optim/natural_galore.h"

#include <algorithm>

#include "core/base/threads.h"
#include "optim/galore.h"

namespace thimble {

const OptimizerEntry kNaturalGaloreEntry{
    .name = "natural_galore",
    .summary =
        "GaLore whose projected gradient is first preconditioned with the last 20 of them, a "
        "natural gradient",
    .use = "to try for a lower loss per step than GaLore, at five times its state",
    .memory =
        "12 x rank values per row (20 of them in bf16, 2 in f32 per rank), and a bf16 "
        "projector",
    .state = "48 L r + 2 s r + 1680",
    .needs = "long rows; s r numbers at a refresh, 20 per step",
    .paper = "Das et al. 2024, Natural GaLore: accelerating GaLore",
    .takes = OptimizerEntry::Takes::kBlockMatrices,
    .make = [](const OptimizerSettings& s) -> std::unique_ptr<Optimizer> {
      return std::make_unique<Galore>(
          galore_options(s, {}, s.adam.state),
          GaloreParts{.second_round = std::make_unique<NaturalGradient>()});
    },
    .keys =
        "betas eps eps_mode proj_type=power project_gradients rank=128 scale=0.25 state_dtype "
        "update_proj_gap=200 wd_order weight_decay",
    .lr = kLowRankRates};

// The last gradients, in a ring, and their products. It counts what is there, not steps, so that a
// step that was skipped leaves no hole.
struct NaturalGradient::Ring {
  enum Number : std::uint8_t { kCount, kNext };
  Tensor gradients;  // [rows, history * rank], f32 or bf16
  std::int64_t size = 0;
  float *products, *numbers;  // [size, size]; [size]

  // The number of gradients once the next is in.
  std::int64_t count_with_next() const {
    return std::min(size, static_cast<std::int64_t>(numbers[kCount]) + 1);
  }
  // The place of the next one, k = 0, and of those before it.
  std::int64_t place(std::int64_t k) const {
    return (static_cast<std::int64_t>(numbers[kNext]) + size - k) % size;
  }
  float& product(std::int64_t a, std::int64_t b) const { return products[a * size + b]; }
};

NaturalGradient::Ring NaturalGradient::ring(std::span<const Tensor> state) const {
  float* products = state[1].data<float>();
  return {state[0], history_, products, products + history_ * history_};
}

namespace {

// One of the gradients that a ring holds.
class Remembered {
 public:
  Remembered(const Tensor& gradients, std::int64_t size, std::int64_t rank, std::int64_t place)
      : gradients_(gradients), stride_(size * rank), begin_(place * rank) {}
  float at(std::int64_t row, std::int64_t c) const {
    const std::int64_t i = row * stride_ + begin_ + c;
    return gradients_.dtype() == DType::kBF16 ? to_float(gradients_.data<BF16>()[i])
                                              : gradients_.data<float>()[i];
  }
  // Returns what is kept of the value.
  float put(std::int64_t row, std::int64_t c, float value) const {
    const std::int64_t i = row * stride_ + begin_ + c;
    if (gradients_.dtype() == DType::kBF16) {
      gradients_.data<BF16>()[i] = to_bf16(value);
    } else {
      gradients_.data<float>()[i] = value;
    }
    return at(row, c);
  }

 private:
  const Tensor& gradients_;
  std::int64_t stride_, begin_;
};

}  // namespace

std::vector<StateSlot> NaturalGradient::state_slots(const GaloreOptions& options,
                                                    const ParamInfo& info) const {
  const std::int64_t rank = low_rank_shape(info, {}, options.rank).rank;
  const DType dtype = options.projector == ProjectorFormat::kF32 ? DType::kF32 : DType::kBF16;
  // gram: the products of the gradients with each other; in the last row the numbers of the ring.
  return {row_slot("history", dtype, info, history_ * rank),
          shared_slot("gram", DType::kF32, Shape{history_ + 1, history_})};
}

// Puts R into the history, which begins anew with the basis, and asks for its products with all
// that is there.
void NaturalGradient::measure(const Subspace& s, std::span<const Tensor> state, const Tensor& r,
                              RoundSums& out) const {
  if (r.device().planning) return;
  const LowRankShape& shape = s.shape();
  const Ring past = ring(state);
  if (s.refreshed()) past.numbers[Ring::kCount] = 0;
  if (shape.rows == 0) return;
  const Remembered own(past.gradients, history_, shape.rank, past.place(0));
  auto* kept = static_cast<float*>(s.args().carry.raw());
  const auto scale = static_cast<float>(s.args().grad_scale);
  parallel_for_each(shape.rows, shape.rank, [&](std::int64_t j) {
    for (std::int64_t c = 0; c < shape.rank; ++c) {
      const std::int64_t i = j * shape.rank + c;
      kept[i] = own.put(j, c, r.data<float>()[i] * scale);
    }
  });
  std::vector<double> products(static_cast<std::size_t>(shape.rows));
  for (std::int64_t k = 0; k < past.count_with_next(); ++k) {
    const Remembered other(past.gradients, history_, shape.rank, past.place(k));
    parallel_for_each(shape.rows, shape.rank, [&](std::int64_t j) {
      double sum = 0;
      for (std::int64_t c = 0; c < shape.rank; ++c) {
        sum += static_cast<double>(kept[j * shape.rank + c]) * static_cast<double>(other.at(j, c));
      }
      products[static_cast<std::size_t>(j)] = sum;
    });
    for (const double p : products) out.exact[static_cast<std::size_t>(k)].add(p);
  }
}

void NaturalGradient::apply(const Subspace& s, std::span<const Tensor> state,
                            const RoundSums& in) const {
  s.step_along(s.adam_direction_of(preconditioned(s, state, in), 1), s.decay());
}

// g / damping - H (I + H^T H / damping)^-1 H^T g / damping^2 for the history H: by Woodbury's
// identity the inverse of F = damping I + H H^T times g.
Tensor NaturalGradient::preconditioned(const Subspace& s, std::span<const Tensor> state,
                                       const RoundSums& in) const {
  const LowRankShape& shape = s.shape();
  const Tensor g = s.workspace(Shape{shape.rows, shape.rank}, "natural gradient");
  if (g.device().planning) return g;
  const Ring past = ring(state);
  const std::int64_t count = past.count_with_next();
  const double inverse = 1 / damping_;
  std::vector<double> system(static_cast<std::size_t>(count * count)), solution;
  for (std::int64_t k = 0; k < count; ++k) {
    solution.push_back(in.exact[static_cast<std::size_t>(k)].value());
    past.product(past.place(0), past.place(k)) = static_cast<float>(solution.back());
    past.product(past.place(k), past.place(0)) = static_cast<float>(solution.back());
  }
  for (std::int64_t a = 0; a < count; ++a) {
    for (std::int64_t b = 0; b < count; ++b) {
      const auto product = static_cast<double>(past.product(past.place(a), past.place(b)));
      system[static_cast<std::size_t>(a * count + b)] = (a == b ? 1.0 : 0.0) + inverse * product;
    }
  }
  const bool solved = solve_positive(count, system.data(), solution.data());
  const auto* own = static_cast<const float*>(s.args().carry.raw());
  parallel_for_each(shape.rows, shape.rank, [&](std::int64_t j) {
    for (std::int64_t c = 0; c < shape.rank; ++c) {
      double sum = 0;
      for (std::int64_t k = 0; solved && k < count; ++k) {
        const Remembered other(past.gradients, history_, shape.rank, past.place(k));
        sum += solution[static_cast<std::size_t>(k)] * static_cast<double>(other.at(j, c));
      }
      const std::int64_t i = j * shape.rank + c;
      g.data<float>()[i] =
          static_cast<float>(inverse * (static_cast<double>(own[i]) - inverse * sum));
    }
  });
  past.numbers[Ring::kCount] = static_cast<float>(count);
  past.numbers[Ring::kNext] = static_cast<float>((past.place(0) + 1) % history_);
  return g;
}

}  // namespace thimble
