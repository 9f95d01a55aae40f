#include "train/train_engine.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <numeric>

#include "core/device/gpu.h"
#include "core/ops/ops.h"
#include "optim/stored_values.h"
#include "parallel/quantised_store.h"
#include "parallel/sharded_grad_sink.h"
#include "parallel/staged_communicator.h"
#include "train/batch_sums.h"
#include "train/engine_stores.h"
#include "train/fp8_check.h"
#include "train/gpu_sharing.h"
#include "train/weight_loading.h"

namespace thimble {
namespace {

// What the optimizer needs, and what the format of the weight does.
OptimizerNeed shard_need(const Optimizer& optimizer, const ParamInfo& info) {
  OptimizerNeed need = optimizer.needs(info);
  if (optimizer.int8_weight(info))
    need.granule_rows = std::lcm(need.granule_rows, int8_granule_rows(info));
  return need;
}

// Null: the ranks' own does. A library that moves tensors from GPU to GPU needs no memory of ours,
// but a GPU for each rank; a plan that is told nothing goes by the GPUs of this machine.
std::unique_ptr<Communicator> make_device_communicator(Arena& arena, Communicator& comm,
                                                       const EngineOptions& options) {
  if (comm.size() == 1 || arena.device().kind == DeviceKind::kCpu) return nullptr;
  const GpuCommunicatorFactory make = gpu_communicator();
  const bool planning = arena.device().planning;
  if (planning && options.reduce_by_transport) return nullptr;
  if (make != nullptr) {
    const int sharing = options.ranks_on_gpu > 0 ? options.ranks_on_gpu
                        : planning               ? ranks_on_a_gpu(comm.size())
                                                 : ranks_on_a_gpu(comm);
    if (sharing == 1) return planning ? nullptr : make(comm);
  }
  return std::make_unique<StagedCommunicator>(comm, arena);
}

StateFormats state_formats(const TrainableModel& model, const EngineOptions& options,
                           MasterFormat master, const ParallelPlan& plan) {
  return {.weights = options.dtype,
          .master = master,
          .divided = plan.stage() > 0,
          .leaves_frozen = options.leaves_frozen,
          .gradients = stored_dtypes(model, options, plan.ranks())};
}

// Sums over the slices of all ranks.
class RankSums final : public SliceSums {
 public:
  explicit RankSums(Communicator& comm) : comm_(comm) {}
  void sum(Arena& arena, RoundSums& sums) override {
    all_reduce(comm_, "optimizer sums", std::span(sums.exact));
    all_reduce(comm_, arena, "optimizer sums", sums.values);
  }

 private:
  Communicator& comm_;
};

const GpuGraphs* gpu_graphs() {
  return gpu_driver() == nullptr ? nullptr : gpu_driver()->graphs;
}

}  // namespace

class TrainEngine::Client final : public UpdateLoop::Client {
 public:
  explicit Client(TrainEngine& engine) : engine_(engine) {}
  Tensor gradient(ParamId id) override { return engine_.gradients_->grad(id); }
  void updated(ParamId id) override {
    engine_.store_->changed(id);
    engine_.gradients_->release(id);
  }

 private:
  TrainEngine& engine_;
};

// What the running step's updates take.
class TrainEngine::Projection final : public GradProjection {
 public:
  explicit Projection(TrainEngine& engine) : engine_(engine) {}
  bool wants(ParamId id) const override {
    return engine_.step_ == 0 ||
           engine_.optimizer_.updates(engine_.model_.params().info(id), engine_.step_);
  }
  std::int64_t width(ParamId id) const override {
    const ParamInfo& info = engine_.model_.params().info(id);
    if (engine_.step_ == 0 || !info.trainable) return 0;
    return engine_.optimizer_.projected_width(info, engine_.step_);
  }
  Tensor apply(ParamId id, const Tensor& gradient) override {
    if (engine_.step_ == 0) return gradient;
    const bool announced = engine_.forecast_.comes({StateForecast::Kind::kProjected, {{.id = id}}});
    if (width(id) == 0) return gradient;
    if (!announced) engine_.state_.announce(engine_.loop_.projection_uses(id, engine_.step_));
    return engine_.loop_.project_gradient(id, engine_.step_, gradient);
  }

 private:
  TrainEngine& engine_;
};

TrainEngine::TrainEngine(Arena& arena, const TrainableModel& model, const Optimizer& optimizer,
                         const EngineOptions& options, const EngineStores& stores)
    : TrainEngine(arena, model, optimizer, options, {alone_, stores}) {}

TrainEngine::TrainEngine(Arena& arena, const TrainableModel& model, const Optimizer& optimizer,
                         const EngineOptions& options, const EngineRank& rank)
    : arena_(arena),
      model_(model),
      optimizer_(optimizer),
      options_(options),
      device_comm_(make_device_communicator(arena, rank.comm, options)),
      comm_(device_comm_ ? *device_comm_ : rank.comm),
      plan_(model.params(), [&](const ParamInfo& info) { return shard_need(optimizer, info); },
            {.ranks = comm_.size(),
             .stage = comm_.size() == 1 ? 0 : options.zero_stage,
             .small_elements = options.small_elements}),
      table_(model.params(), optimizer, state_formats(model, options, master(), plan_),
             [this](ParamId id) { return plan_.spec(id).rows; }),
      store_(make_store(arena, model, options,
                        {model.params(), table_, plan_, comm_, options.dtype}, rank.stores)),
      state_store_(make_state_store(arena, table_, comm_.rank(), rank.stores)),
      state_(table_, *store_, *state_store_, store_->is_kept_with_state()),
      activations_(rank.stores.activations ? rank.stores.activations(arena)
                                           : std::make_unique<SavePolicy>()),
      activations_stay_(!rank.stores.activations),
      projection_(std::make_unique<Projection>(*this)),
      gradients_(std::make_unique<ShardedGradSink>(
          GradSinkParts{arena, model.params(), plan_, comm_, *projection_},
          GradSinkOptions{.reduce = {.comm_dtype = options.comm_dtype,
                                     .by_transport = options.reduce_by_transport},
                          .accumulates = options.accumulates,
                          .adds_before_home = options.by_layers,
                          .local_dtypes = grad_dtypes(model, options, comm_.size())})),
      sums_(plan_.stage() == 0 ? std::make_unique<SliceSums>() : std::make_unique<RankSums>(comm_)),
      loop_({arena, model.params(), optimizer, table_, state_, *sums_, options.seed,
             options.gpu_share}),
      client_(std::make_unique<Client>(*this)),
      forecast_(model.params().size()),
      graph_caches_{GraphCache(gpu_graphs()), GraphCache(gpu_graphs())} {
  check_fp8(options, model, arena);
  for (const ParamId id : model.params().ids()) {
    if (model.params().info(id).trainable) items_.push_back({id, plan_.updated(id, comm_.rank())});
  }
  create_state(*state_store_, table_, 1);
  if (options.fused_backward) fuse_updates();
  if (options.stored_gradients) store_gradients();
  if (options.delayed_update) delay_updates();
  tables_ = model.make_tables(arena, options.seq_len);
}

void TrainEngine::fuse_updates() {
  fused_ = std::make_unique<FusedUpdate>(
      FusedUpdate::Parts{.arena = arena_,
                         .params = model_.params(),
                         .comm = comm_,
                         .gradients = *gradients_,
                         .shards_gradients = plan_.stage() > 0},
      [this](std::span<const UpdateItem> items, const UpdateStep& step) {
        update(items, step,
               forecast_.comes({StateForecast::Kind::kUpdated, {items.begin(), items.end()}}));
      });
  gradients_->set_ready([this](std::span<const ParamId> ids) { fused_->ready(ids); });
}

void TrainEngine::delay_updates() {
  if (fused_) {
    throw_user(
        "offload.delayed_update = true: with optimizer.fused_backward = true the update runs in "
        "the backward pass already; allowed with false");
  }
  delayed_ = std::make_unique<DelayedUpdate>(
      model_, [this](std::span<const UpdateItem> items, const UpdateStep& step) {
        update(items, step, true);
        store_->publish();
      });
}

void TrainEngine::store_gradients() {
  stored_ = std::make_unique<StoredGradients>(
      StoredGradients::Parts{.arena = arena_,
                             .table = table_,
                             .optimizer = optimizer_,
                             .state = state_,
                             .loop = loop_,
                             .rank = comm_.rank()},
      [this](ParamId id) {
        return forecast_.comes({StateForecast::Kind::kStored, {{.id = id}}});
      });
  gradients_->set_home(*stored_);
}

void TrainEngine::load(TensorSource& source, LoadedWeights which) {
  load_weights(arena_, {table_, state_, comm_.rank(), which}, source);
  refresh_weights(0);
}

void TrainEngine::load_frozen(TensorSource& source) {
  load_weights(arena_, {table_, state_, comm_.rank(), LoadedWeights::kFrozen}, source);
}

void TrainEngine::refresh_weights(std::int64_t step) {
  if (!store_->is_kept_with_state()) derive_weights(table_, state_, comm_.rank());
  for (const ParamId id : model_.params().ids()) store_->changed(id);
  store_->publish();
  state_.commit(step);
}

std::vector<std::int64_t> TrainEngine::projected_widths(std::int64_t step) const {
  std::vector<std::int64_t> widths;
  for (const ParamId id : model_.params().ids()) {
    const ParamInfo& info = model_.params().info(id);
    const bool updated = info.trainable && optimizer_.updates(info, step);
    widths.push_back(updated ? optimizer_.projected_width(info, step) : kNotUpdated);
  }
  return widths;
}

// The sum of squares of the gradients of the rows that this rank updates; first_bad: the first
// parameter whose gradient is not finite, or -1.
ExactSum TrainEngine::squares(std::int32_t& first_bad) const {
  ExactSum sum;
  first_bad = -1;
  if (stored_) {
    sum.add(stored_->squares());
    first_bad = static_cast<std::int32_t>(stored_->first_bad());
  }
  for (const UpdateItem& item : active_) {
    if (stored_ && stored_->takes(item.id)) {
      TH_CHECK(stored_->is_final(item.id), "no gradient reached {}",
               model_.params().info(item.id).name);
      continue;
    }
    const Tensor& grad = gradients_->grad(item.id);
    TH_CHECK(grad.defined(), "no gradient reached {}", model_.params().info(item.id).name);
    ops::add_squares(arena_, sum, grad);
    if (first_bad < 0 && !std::isfinite(sum.value()))
      first_bad = static_cast<std::int32_t>(item.id);
  }
  return sum;
}

// Brings loss, norm and the verdict on the step to every rank: the loss is the sum over all ranks,
// divided by the weight of all trained tokens of the step.
void TrainEngine::agree(const Sums& sums, ExactSum squares, std::int32_t first_bad,
                        StepResult& result) {
  ExactSum tokens;
  tokens.add(static_cast<double>(result.trained_tokens));
  std::array<ExactSum, 3> shared{sums.loss, std::move(tokens),
                                 plan_.stage() == 0 ? ExactSum() : squares};
  all_reduce(comm_, "loss and norm", shared);
  result.loss = sums.weight != 0 ? shared[0].value() / sums.weight : 0.0;
  result.trained_tokens = std::llround(shared[1].value());
  result.grad_norm = std::sqrt((plan_.stage() == 0 ? squares : shared[2]).value());
  result.skipped = !std::isfinite(result.loss) || !std::isfinite(result.grad_norm);
  if (!result.skipped) return;
  const auto all =
      all_gather_control(comm_, "first bad gradient", std::as_bytes(std::span(&first_bad, 1)));
  for (std::size_t r = 0; r < all.size() / sizeof(first_bad); ++r) {
    std::int32_t theirs = -1;
    std::memcpy(&theirs, all.data() + r * sizeof(theirs), sizeof(theirs));
    if (theirs >= 0 && (first_bad < 0 || theirs < first_bad)) first_bad = theirs;
  }
  result.first_bad = !std::isfinite(result.loss) || first_bad < 0
                         ? "the loss"
                         : model_.params().info(static_cast<ParamId>(first_bad)).name;
}

void TrainEngine::keep_state_of(std::int64_t step) {
  if (varies(optimizer_, model_.params())) {
    if (state_.watcher() != nullptr) state_.watcher()->before_change();
    change_state(*state_store_, table_, state_step_, step);
  }
  state_step_ = step;
}

void TrainEngine::begin_step(std::int64_t step) {
  // What is kept of the state may change with the step.
  if (varies(optimizer_, model_.params())) finish_update();
  step_ = step;
  keep_state_of(step);
  if (stored_) stored_->begin_step(step);
  active_.clear();
  for (const UpdateItem& item : items_) {
    if (optimizer_.updates(model_.params().info(item.id), step)) active_.push_back(item);
  }
}

// Announces the state that the coming backward pass will lease.
void TrainEngine::begin_backward(bool updates) {
  if (step_ == 0) return;
  state_.announce(forecast_.begin_backward(
      updates, [this](const StateForecast::Event& event) { return uses(event); }));
}

void TrainEngine::end_backward() {
  gradients_->end_micro_batches();
  forecast_.end_backward();
}

// What the running step leases for it.
std::vector<StateUse> TrainEngine::uses(const StateForecast::Event& event) const {
  std::vector<UpdateItem> items;
  for (const UpdateItem& item : event.items) {
    if (optimizer_.updates(model_.params().info(item.id), step_)) items.push_back(item);
  }
  if (items.empty()) return {};
  const ParamId id = items.front().id;
  switch (event.kind) {
    case StateForecast::Kind::kProjected:
      return projection_->width(id) > 0 ? loop_.projection_uses(id, step_)
                                        : std::vector<StateUse>{};
    case StateForecast::Kind::kStored:
      return stored_->takes(id) ? stored_->uses(id, event.again) : std::vector<StateUse>{};
    case StateForecast::Kind::kUpdated:
      break;
  }
  return loop_.uses(items, step_);
}

StepResult TrainEngine::step(std::span<const Batch> micro_batches, std::int64_t step, double lr) {
  begin_step(step);
  const StepResult result =
      fused_ ? fused_step(micro_batches, step, lr) : plain_step(micro_batches, step, lr);
  if (commit_hook_) commit_hook_(result);
  if (!delayed_ || !delayed_->is_pending()) commit(step);
  return result;
}

void TrainEngine::commit(std::int64_t step) {
  phase("commit", true);
  state_.commit(step);
  phase("commit", false);
}

}  // namespace thimble
