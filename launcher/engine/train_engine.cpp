#include "launcher/engine/train_engine.h"

#include <algorithm>
#include <cmath>

#include "core/ops/ops.h"
#include "models/rope_table.h"

namespace thimble {
namespace {

constexpr std::int64_t kLoadStagingBytes = 16 * kMiB;

std::vector<DType> grad_dtypes(const Transformer& model, const EngineOptions& options) {
  std::vector<DType> dtypes;
  for (const ParamId id : model.params().ids()) {
    const ParamRole role = model.params().info(id).role;
    // The head, and a tied embedding, receive several contributions within one pass.
    const bool several = role == ParamRole::kHead || (role == ParamRole::kEmbedding && model.config().tied_head);
    dtypes.push_back(options.accumulates || several ? DType::kF32 : options.grad_dtype);
  }
  return dtypes;
}

double total_weight(std::span<const Batch> batches) {
  double total = 0;
  for (const Batch& batch : batches) {
    for (const float w : batch.weights) total += static_cast<double>(w);
  }
  return total;
}

std::int64_t count_trained(std::span<const Batch> batches) {
  std::int64_t count = 0;
  for (const Batch& batch : batches) {
    count += std::count_if(batch.weights.begin(), batch.weights.end(), [](float w) { return w != 0.0f; });
  }
  return count;
}

double weighted_sum(const Tensor& losses, const Batch& batch) {
  if (losses.device().planning) return 0;
  const float* loss = losses.data<float>();
  double sum = 0;
  for (std::size_t i = 0; i < batch.weights.size(); ++i) {
    if (batch.weights[i] != 0.0f) sum += static_cast<double>(batch.weights[i]) * static_cast<double>(loss[i]);
  }
  return sum;
}

}  // namespace

class TrainEngine::Host final : public UpdateLoop::Host {
 public:
  explicit Host(TrainEngine& engine) : engine_(engine) {}
  UpdateTensors tensors(const UpdateItem& item) override {
    return {.grad = engine_.sink_.grad(item.id),
            .weight = engine_.store_.writable(item.id),
            .separate_master = engine_.options_.dtype != DType::kF32};
  }
  void updated(const UpdateItem& item) override {
    engine_.store_.changed(item.id);
    engine_.sink_.release(item.id);
  }

 private:
  TrainEngine& engine_;
};

TrainEngine::TrainEngine(Arena& arena, const Transformer& model, const Optimizer& optimizer,
                         const EngineOptions& options)
    : arena_(arena),
      model_(model),
      options_(options),
      store_(arena, model.params(), options.dtype, options.recompute == Recompute::kNone),
      sink_(arena, model.params(), grad_dtypes(model, options)),
      state_(arena),
      loop_(model.params(), optimizer, state_, sums_) {
  for (const ParamId id : model.params().ids()) {
    const ParamInfo& info = model.params().info(id);
    if (!info.trainable) continue;
    items_.push_back({id, whole_slice(info)});
    create_state(state_, optimizer, model.params(), items_.back(), options.dtype != DType::kF32);
  }
  rope_table_ = make_rope_table(arena, model.config(), options.seq_len);
}

void load_weights(Arena& arena, const Transformer& model, ResidentParamStore& store, TensorSource& source) {
  for (const ParamId id : model.params().ids()) {
    const ParamInfo& info = model.params().info(id);
    const Tensor weight = store.writable(id);
    if (weight.dtype() == DType::kF32) {
      source.read(info, whole_slice(info), weight);
    } else {
      const std::int64_t width = info.is_matrix() ? info.storage_shape()[1] : 1;
      const std::int64_t rows = info.storage_shape()[0];
      const std::int64_t step = std::clamp<std::int64_t>(kLoadStagingBytes / (4 * width), 1, rows);
      const Tensor staging =
          Tensor::empty(arena, MemoryTag::kIo, DType::kF32, Shape{step * width}, "weights being loaded");
      for (std::int64_t r = 0; r < rows; r += step) {
        const std::int64_t end = std::min(rows, r + step);
        source.read(info, {r, end}, staging);
        const Tensor part = weight.rows(r, end);
        ops::cast(part, staging.rows(0, (end - r) * width).view(part.shape()));
      }
    }
    store.changed(id);
  }
}

void TrainEngine::load(TensorSource& source) {
  if (options_.dtype == DType::kF32) {
    load_weights(arena_, model_, store_, source);
    return;
  }
  for (const UpdateItem& item : items_) {
    const Tensor& master = state_.at({item.id, "master"});
    source.read(model_.params().info(item.id), item.slice, master);
  }
  for (const ParamId id : model_.params().ids()) {
    const ParamInfo& info = model_.params().info(id);
    if (info.trainable) continue;
    const Tensor whole = Tensor::empty(arena_, MemoryTag::kIo, DType::kF32, info.storage_shape(), "frozen weight");
    source.read(info, whole_slice(info), whole);
    ops::cast(store_.writable(id), whole);
    store_.changed(id);
  }
  refresh_weights();
}

void TrainEngine::refresh_weights() {
  for (const UpdateItem& item : items_) {
    if (options_.dtype != DType::kF32) ops::cast(store_.writable(item.id), state_.at({item.id, "master"}));
    store_.changed(item.id);
  }
}

StepResult TrainEngine::accumulate(std::span<const Batch> micro_batches) {
  const double weight = total_weight(micro_batches);
  const double scale = weight > 0 ? 1.0 / weight : 0.0;
  StepResult result;
  result.trained_tokens = count_trained(micro_batches);
  SavePolicy keep;
  for (const Batch& batch : micro_batches) {
    const BatchTensors tensors = upload(arena_, batch);
    Tape tape(arena_, sink_, keep, options_.recompute);
    Context ctx{.store = store_, .arena = arena_, .dtype = options_.dtype, .tape = &tape};
    phase("forward", true);
    const Tensor losses = model_.loss(ctx, tensors, rope_table_, static_cast<float>(scale));
    phase("forward", false);
    result.loss += weighted_sum(losses, batch) * scale;
    phase("backward", true);
    tape.backward();
    phase("backward", false);
  }
  return result;
}

double TrainEngine::gradient_norm(std::string& first_bad) {
  ExactSum sum;
  for (const UpdateItem& item : items_) {
    const Tensor& grad = sink_.grad(item.id);
    TH_CHECK(grad.defined(), "no gradient reached {}", model_.params().info(item.id).name);
    ops::add_squares(sum, grad);
    if (first_bad.empty() && !std::isfinite(sum.value())) first_bad = model_.params().info(item.id).name;
  }
  return std::sqrt(sum.value());
}

StepResult TrainEngine::step(std::span<const Batch> micro_batches, std::int64_t step, double lr) {
  StepResult result = accumulate(micro_batches);
  phase("norm", true);
  if (!std::isfinite(result.loss)) result.first_bad = "the loss";
  result.grad_norm = gradient_norm(result.first_bad);
  phase("norm", false);
  if (!std::isfinite(result.loss) || !std::isfinite(result.grad_norm)) {
    result.skipped = true;
    sink_.release_all();
    return result;
  }
  // As torch.nn.utils.clip_grad_norm_: max / (norm + 1e-6), at most 1.
  const double clip =
      options_.max_grad_norm > 0 ? std::min(1.0, options_.max_grad_norm / (result.grad_norm + 1e-6)) : 1.0;
  phase("update", true);
  Host host(*this);
  loop_.step(arena_, host, items_, step, lr, clip);
  phase("update", false);
  return result;
}

EvalSum TrainEngine::evaluate(const Batch& batch) {
  const BatchTensors tensors = upload(arena_, batch);
  Context ctx{.store = store_, .arena = arena_, .dtype = options_.dtype};
  const Tensor losses = model_.loss(ctx, tensors, rope_table_, 1.0f);
  return {.weighted_loss = weighted_sum(losses, batch), .weight = total_weight(std::span(&batch, 1))};
}

}  // namespace thimble
