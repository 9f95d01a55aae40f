#include "optim/subspace_refresh.h"

#include <algorithm>
#include <cstring>

#include "core/ops/ops.h"

namespace thimble {
namespace {

constexpr int kFirstIterations = 3;       // of the power iteration that starts from random columns
constexpr std::int64_t kFirstSteps = 32;  // over which first refreshes are spread

}  // namespace

std::int64_t SubspaceRefresh::first(const ParamInfo& info) const {
  if (!projects(info)) return 1;
  const std::int64_t spread = std::min(options_.update_gap, kFirstSteps);
  return 1 + static_cast<std::int64_t>(hash_name(info.name) % static_cast<std::uint64_t>(spread));
}

bool SubspaceRefresh::is_at(const ParamInfo& info, std::int64_t step) const {
  const std::int64_t first_step = first(info);
  if (step <= first_step) return step == first_step;
  const auto gap = static_cast<std::uint64_t>(options_.update_gap);
  const std::uint64_t offset = options_.stagger ? hash_name(info.name) % gap : 0;
  return (static_cast<std::uint64_t>(step - 1) + offset) % gap == 0;
}

int SubspaceRefresh::rounds(const ParamInfo& info, std::int64_t step) const {
  if (!is_at(info, step)) return 0;
  return step == first(info) && !options_.exact ? kFirstIterations : 1;
}

std::int64_t SubspaceRefresh::num_sums(const ParamInfo& info) const {
  const LowRankShape shape = low_rank_shape(info, {}, options_.rank);
  return shape.width * (options_.exact ? shape.width : shape.rank);
}

void SubspaceRefresh::start_basis(const UpdateArgs& args, std::span<const Tensor> projector) const {
  const LowRankShape shape = low_rank_shape(args.info, args.slice, options_.rank);
  const Tensor random = random_projection(args, shape, 0, DType::kF32);
  orthonormalise(*args.arena, random);
  store_projector(random, options_.projector, projector);
}

void SubspaceRefresh::contribute(const Subspace& s, const Tensor& subject, RoundSums& out) const {
  const LowRankShape& shape = s.shape();
  Arena& arena = *s.args().arena;
  const std::int64_t columns = options_.exact ? shape.width : shape.rank;
  const Tensor sum = s.workspace(Shape{shape.width, columns}, "subspace");
  if (shape.rows > 0 && options_.exact) {
    ops::matmul(arena, {subject, true}, {subject}, sum);
  } else if (shape.rows > 0) {
    const Tensor p = s.basis(subject.dtype());
    const Tensor r =
        s.workspace(Shape{shape.rows, shape.rank}, "projected gradient", subject.dtype());
    ops::matmul(arena, {subject}, {p}, r);
    ops::matmul(arena, {subject, true}, {r}, sum);
  } else if (!s.planning()) {
    ops::zero(sum);
  }
  if (!s.planning())
    std::memcpy(out.values.data(), sum.raw(), static_cast<std::size_t>(sum.nbytes()));
}

bool SubspaceRefresh::find(const Subspace& s, const RoundSums& in, const Tensor& next) const {
  const bool planning = next.device().planning;
  if (!options_.exact) {
    if (!planning) std::copy(in.values.begin(), in.values.end(), next.data<float>());
    return orthonormalise(*s.args().arena, next);
  }
  return !planning && largest_eigenvectors(in.values.data(), s.shape().width, s.shape().rank,
                                           next.data<float>());
}

}  // namespace thimble
