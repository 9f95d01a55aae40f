#include "optim/subspace.h"

#include "core/ops/ops.h"

namespace thimble {

Subspace::Subspace(const GaloreOptions& options, const UpdateArgs& args, bool refreshed)
    : options_(options),
      args_(args),
      shape_(low_rank_shape(args.info, args.slice, options.rank)),
      refreshed_(refreshed) {
  const std::size_t moments =
      num_moment_slots(row_moments(args.info, shape_.rank), options.adam.state);
  const std::size_t projectors = projector_slots(shape_, options.projector).size();
  moments_ = args.state.first(moments);
  projector_ = args.state.subspan(moments, projectors);
  other_ = args.state.subspan(moments + projectors);
}

std::vector<StateSlot> Subspace::state_slots(const GaloreOptions& options, const ParamInfo& info) {
  const LowRankShape shape = low_rank_shape(info, {}, options.rank);
  std::vector<StateSlot> slots = moment_slots(row_moments(info, shape.rank), options.adam.state);
  for (StateSlot& s : projector_slots(shape, options.projector)) slots.push_back(std::move(s));
  return slots;
}

Tensor Subspace::basis(DType dtype) const {
  return load_projector(*args_.arena, shape_, options_.projector, projector_, dtype);
}

Tensor Subspace::projected_gradient() const {
  if (args_.grad.shape()[1] == shape_.width)
    return project(args_, shape_, basis(args_.grad.dtype()));
  const Tensor r = workspace(args_.grad.shape(), "projected gradient");
  ops::cast(r, args_.grad);
  return r;
}

Tensor Subspace::adam_direction_of(const Tensor& r, double grad_scale) const {
  const Tensor direction = workspace(r.shape(), "direction");
  if (!r.device().planning && shape_.rows > 0) {
    adam_direction(shape_.rows * shape_.rank, tensor_source(r, grad_scale),
                   moment_state(args_, row_moments(args_.info, shape_.rank), options_.adam.state),
                   adam_math(options_.adam, args_.step, 1.0), direction.data<float>());
  }
  return direction;
}

void Subspace::step_along(const Tensor& direction, const WeightDecay& decay) const {
  const DType dtype = args_.grad.dtype();
  const Tensor p = basis(dtype);
  const Tensor low = workspace(direction.shape(), "direction", dtype);
  ops::cast(low, direction);
  const Tensor full = workspace(Shape{shape_.rows, shape_.width}, "update", dtype);
  if (shape_.rows == 0) return;
  ops::matmul(*args_.arena, {low}, {p, true}, full);
  if (full.device().planning) return;
  scaled_step(weight_update(args_, decay, tensor_source(full)), shape_.width,
              {.lr = static_cast<float>(args_.lr * options_.scale)});
}

}  // namespace thimble
