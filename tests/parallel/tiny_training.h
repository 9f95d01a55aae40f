// Training a tiny model of odd sizes on any number of ranks.
#pragma once

#include <algorithm>
#include <cmath>

#include "core/ops/ops.h"
#include "models/transformer.h"
#include "models/weight_sources.h"
#include "optim/groups.h"
#include "parallel/planning_communicator.h"
#include "tests/parallel/odd_model.h"
#include "tests/parallel/rank_team.h"
#include "tests/parallel/stores_of_tests.h"
#include "train/memory_report.h"
#include "train/train_engine.h"

namespace thimble {

constexpr std::int64_t kSeq = 13;

// `wide`: more columns than tokens, so that the embedding and the head are stored transposed.
inline ModelConfig odd_config(bool tied, bool wide = false) {
  ModelConfig c;
  c.hidden_size = wide ? 72 : 24;
  c.intermediate_size = 37;
  c.num_layers = 3;
  c.num_heads = 3;
  c.num_kv_heads = 1;
  c.head_dim = 8;
  c.vocab_size = 61;
  c.max_positions = 64;
  c.tied_lm_head = tied;
  c.qkv_bias = true;
  c.windows = {0, 5, 0};
  return c;
}

// Micro-batch `index` of a step; some positions, and in one of them all, are not trained.
inline Batch micro_batch(int index, int empty = -1) {
  Batch b{.sequences = 2, .seq_len = kSeq};
  for (int i = 0; i < 2 * kSeq; ++i) {
    const int t = i % static_cast<int>(kSeq), start = t >= 6 ? 6 : 0;
    b.tokens.push_back((i * 17 + index * 5) % 61);
    b.targets.push_back((i * 17 + 17 + index * 5) % 61);
    b.weights.push_back(index == empty || (i + index) % 5 == 0 ? 0.0f : 1.0f);
    b.segment_start.push_back(start);
    b.positions.push_back(t - start);
  }
  return b;
}

inline std::vector<Batch> batches_of(int rank, int ranks, int accumulation_steps, int empty) {
  std::vector<Batch> mine;
  for (int p = 0; p < accumulation_steps; ++p) mine.push_back(micro_batch(p * ranks + rank, empty));
  return mine;
}

inline std::vector<float> floats(const Tensor& t) {
  std::vector<float> out(static_cast<std::size_t>(t.numel()));
  if (t.dtype() == DType::kF32) {
    ops::to_host(out.data(), t);
    return out;
  }
  std::vector<BF16> stored(out.size());
  ops::to_host(stored.data(), t);
  std::transform(stored.begin(), stored.end(), out.begin(), [](BF16 v) { return to_float(v); });
  return out;
}

inline std::vector<float> rows_of(const std::vector<float>& whole, const ParamInfo& info,
                                  Slice slice) {
  const std::int64_t width = info.shape.numel() / info.storage_shape()[0];
  return {whole.begin() + slice.begin * width, whole.begin() + slice.end * width};
}

// What a rank holds of an entry.
inline std::vector<float> held_values(TrainEngine& engine, const StateEntry& entry) {
  const StateLease lease = engine.state().acquire(
      {.id = entry.id, .rows = entry.held_rows(engine.rank()), .on_cpu = true});
  return floats(lease.tensor());
}

// A whole weight as accumulation_steps see it.
inline std::vector<float> shown_weight(TrainEngine& engine, ParamId id) {
  const auto blocks = engine.model().block_params();
  BlockId block = 0;
  while (std::count(blocks[static_cast<std::size_t>(block)].begin(),
                    blocks[static_cast<std::size_t>(block)].end(), id) == 0)
    ++block;
  const Pin pin(engine.store(), block);
  return floats(pin.view(id));
}

// The rows of a compute weight that a rank updates.
inline std::vector<float> own_weights(TrainEngine& engine, ParamId id) {
  return held_values(engine, *engine.table().find(id, StateKind::kWeight));
}

// Everything a run produced, by parameter: rows [slice) of gradient of the first step, master after
// three steps.
struct Outcome {
  std::vector<double> losses, norms;
  std::vector<Slice> slices;
  std::vector<std::vector<float>> grads, masters;
};

inline void expect_same(const Outcome& got, const Outcome& want, const std::string& where) {
  EXPECT_EQ(got.losses, want.losses) << where;
  EXPECT_EQ(got.norms, want.norms) << where;
  EXPECT_TRUE(got.grads == want.grads) << where;
  EXPECT_TRUE(got.masters == want.masters) << where;
}

struct Setting {
  std::string optimizer = "adamw";
  int stage = 0, accumulation_steps = 1, empty = -1;
  DType dtype = DType::kF32, comm_dtype = DType::kF32;
  bool reduce_by_transport = false;
  bool tied = false, wide = false;
  Recompute recompute = Recompute::kNone;
  double recompute_share = 1;
  MasterFormat master = MasterFormat::kF32;
  bool fused = false;
  ClipMode clip_mode = ClipMode::kExact;
  double max_grad_norm = 1;
  bool project_gradients = false;
  std::int64_t update_gap = 1;  // steps between refreshes; 3 with projected gradients
  DeviceKind device = DeviceKind::kCpu;
  std::int64_t small_elements = 64;
  bool stored_gradients = false;  // where the state is
  bool delayed_update = false;
  bool by_layers = false;
  bool hostile = false;            // stores, whatever the environment says
  std::optional<TestDisk> disk{};  // the same
  std::optional<double> host{};    // state on the GPU's host, of whose updates the GPU has so much
  std::optional<ActivationPlace> activations{};
  bool odd_model = tests_train_odd_model();
  std::optional<AdapterConfig> adapter{};  // of a transformer
};

inline std::unique_ptr<TrainableModel> tiny_model(const Setting& s) {
  if (s.adapter) return std::make_unique<Transformer>(odd_config(s.tied, s.wide), s.adapter);
  if (s.odd_model) return std::make_unique<OddModel>(s.tied, s.wide);
  return std::make_unique<Transformer>(odd_config(s.tied, s.wide));
}

// Small enough for every other matrix; the second of three steps refreshes too. With projected
// gradients every matrix refreshes in one of the three.
inline OptimizerGroups make_groups(const ParamTable& params, const std::string& name,
                                   bool project_gradients = false, std::int64_t update_gap = 1) {
  GroupSettings main{.label = "main",
                     .match = "",
                     .optimizer = {.name = name,
                                   .rank = 3,
                                   .update_gap = project_gradients ? 3 : update_gap,
                                   .project_gradients = project_gradients},
                     .lr = 1e-3};
  // "frugal layers": the other thing that it can keep moments of.
  if (const std::size_t space = name.find(' '); space != std::string::npos) {
    main.optimizer.name = name.substr(0, space);
    main.optimizer.proj_type = name.substr(space + 1);
  }
  GroupSettings fallback = main;
  fallback.optimizer.name = "adamw";
  return {params, narrow_groups(params, main), main, fallback};
}

inline EngineOptions engine_options(const Setting& s, int accumulation_steps) {
  return {.dtype = s.dtype,
          .grad_dtype = s.dtype,
          .recompute = s.recompute,
          .recompute_share = s.recompute_share,
          .accumulates = accumulation_steps > 1,
          .by_layers = s.by_layers,
          .zero_stage = s.stage,
          .comm_dtype = s.comm_dtype,
          .reduce_by_transport = s.reduce_by_transport,
          .small_elements = s.small_elements,
          .max_grad_norm = s.max_grad_norm,
          .clip_mode = s.clip_mode,
          .fused_backward = s.fused,
          .master = s.master,
          .seq_len = kSeq,
          .stored_gradients = s.stored_gradients,
          .delayed_update = s.delayed_update,
          .gpu_share = s.host.value_or(1)};
}

inline EngineStores stores_of(const Setting& s, const TrainableModel& model,
                              const Optimizer& optimizer, Communicator& comm) {
  EngineStores stores = s.hostile ? hostile_stores(model)
                        : s.disk  ? disk_stores(optimizer, comm, *s.disk)
                        : s.host  ? host_stores(optimizer)
                                  : stores_of_tests(model, optimizer, comm, s.stage);
  if (s.activations) stores.activations = activations_elsewhere(*s.activations);
  return stores;
}

inline Outcome train(Communicator& comm, const Setting& s, const std::vector<Batch>& batches) {
  const auto arena =
      s.device == DeviceKind::kCpu ? Arena::make_cpu(1 << 26) : Arena::make_gpu(1 << 26, 1 << 26);
  arena->set_poison(true);
  Outcome out;
  const std::unique_ptr<TrainableModel> made = tiny_model(s);
  const TrainableModel& model = *made;
  const OptimizerGroups optimizer =
      make_groups(model.params(), s.optimizer, s.project_gradients, s.update_gap);
  TrainEngine engine(*arena, model, optimizer, engine_options(s, static_cast<int>(batches.size())),
                     {comm, stores_of(s, model, optimizer, comm)});
  InitSource source(3, 0.3);
  engine.load(source);
  for (const ParamId id : model.params().ids())
    out.slices.push_back(engine.parallel().updated(id, comm.rank()));
  if (!s.fused) {
    static_cast<void>(engine.accumulate(batches));
    for (const ParamId id : model.params().ids()) {
      const Tensor& grad = engine.grads().grad(id);
      const ParamInfo& info = model.params().info(id);
      EXPECT_EQ(grad.defined(), info.trainable) << info.name;
      const std::int64_t width = info.shape.numel() / info.storage_shape()[0];
      const std::int64_t values = out.slices[out.grads.size()].rows() * width;
      out.grads.push_back(grad.defined() ? floats(grad)
                                         : std::vector<float>(static_cast<std::size_t>(values)));
    }
    engine.release_grads();
  }
  for (int step = 1; step <= 3; ++step) {
    const StepResult result = engine.step(batches, step, 1e-3);
    EXPECT_FALSE(result.skipped);
    out.losses.push_back(result.loss);
    out.norms.push_back(result.grad_norm);
  }
  for (const ParamId id : model.params().ids()) {
    const Slice rows = engine.parallel().updated(id, comm.rank());
    out.masters.push_back(engine.table().find(id, StateKind::kScale) != nullptr
                              ? rows_of(shown_weight(engine, id), model.params().info(id), rows)
                          : engine.table().find(id, StateKind::kMaster) != nullptr
                              ? held_values(engine, *engine.table().find(id, StateKind::kMaster))
                              : own_weights(engine, id));
  }
  return out;
}

// The run of one process that takes all micro-batches in the order in which the ranks are counted.
inline Outcome reference(const Setting& s, int ranks) {
  SingleCommunicator alone;
  return train(alone, s, batches_of(0, 1, ranks * s.accumulation_steps, s.empty));
}

inline double relative(const std::vector<float>& got, const std::vector<float>& want) {
  double error = 0, norm = 0;
  for (std::size_t i = 0; i < want.size(); ++i) {
    error += std::pow(static_cast<double>(got[i]) - static_cast<double>(want[i]), 2);
    norm += std::pow(static_cast<double>(want[i]), 2);
  }
  return norm > 0 ? std::sqrt(error / norm) : std::sqrt(error);
}

}  // namespace thimble
