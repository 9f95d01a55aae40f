#include "compress/kv_options.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "compress/budgets.h"
#include "compress/channel_bases.h"
#include "core/base/numeric.h"

namespace thimble {
namespace {

constexpr std::array<std::string_view, 7> kMethodNames{"full", "window", "random",  "knorm",
                                                       "h2o",  "snapkv", "expected"};
constexpr std::string_view kTrainedName = "trained";
constexpr std::array<std::string_view, 4> kAllocationNames{"even", "ada", "pyramid", "ada-pyramid"};

template <typename Enum, std::size_t n>
Enum parse_name(const std::array<std::string_view, n>& names, std::string_view text,
                std::string_view option) {
  const auto found = std::find(names.begin(), names.end(), text);
  if (found == names.end()) throw_user("{} '{}': allowed {}", option, text, fmt::join(names, ", "));
  return static_cast<Enum>(found - names.begin());
}

// Coordinates are of keys after RoPE, and of so many channels.
void check_bases(const KvOptions& o) {
  if (o.rope_stage == RopeStage::kPre)
    throw_user("--kv-rope pre: the compressor's bases are of keys after RoPE; allowed post");
  for (const std::int64_t rank : {o.bases->key_rank(), o.bases->value_rank()}) {
    if (o.bits < 16 && rank % (8 / o.bits) != 0)
      throw_user("--kv-bits {}: {} stored channels do not fill whole bytes", o.bits, rank);
  }
}

void check_storage(const KvOptions& o, const KvShape& shape) {
  if (o.bases != nullptr) check_bases(o);
  if (o.bits != 16 && o.bits != 8 && o.bits != 4 && o.bits != 2)
    throw_user("--kv-bits {}: allowed 16, 8, 4, 2", o.bits);
  if (o.group != 32 && o.group != 64) throw_user("--kv-group {}: allowed 32, 64", o.group);
  if (o.bits < 16 && o.window % o.group != 0) {
    throw_user("--kv-window {} is not a multiple of --kv-group {}: keys leave the window in groups",
               o.window, o.group);
  }
  if (o.bits < 16 && shape.head_dim % (8 / o.bits) != 0) {
    throw_user("--kv-bits {}: heads of {} channels do not fill whole bytes", o.bits,
               shape.head_dim);
  }
  if (o.positions == PositionPolicy::kSlots && o.rope_stage == RopeStage::kPost) {
    throw_user(
        "--kv-positions slots rotates keys whenever it reads them: it needs --kv-rope pre, not "
        "post");
  }
  if (o.positions == PositionPolicy::kSlots && o.method == KvMethod::kExpected)
    throw_user(
        "--kv-method expected looks ahead from the positions of the text: it needs "
        "--kv-positions original");
}

void check_ranges(const KvOptions& o) {
  if (!(o.budget > 0)) throw_user("--kv-budget {}: allowed above 0", o.budget);
  if (o.budget > 1 && o.budget != std::floor(o.budget)) {
    throw_user("--kv-budget {}: allowed a share up to 1, or a whole number of positions per head",
               o.budget);
  }
  if (o.sinks < 0) throw_user("--kv-sinks {}: allowed 0 or more", o.sinks);
  if (o.window < 1) throw_user("--kv-window {}: allowed 1 or more", o.window);
  if (o.pooling < 1 || o.pooling % 2 == 0)
    throw_user("--kv-pooling {}: allowed odd numbers", o.pooling);
  if (o.method == KvMethod::kFull && o.budget < 1)
    throw_user("--kv-budget {}: --kv-method full keeps everything; choose a method", o.budget);
  const bool scored = o.method != KvMethod::kFull && o.method != KvMethod::kWindow;
  if (o.allocation != KvAllocation::kEven && !scored)
    throw_user("--kv-allocation {}: --kv-method {} has no scores to deal a budget by",
               kAllocationNames[static_cast<std::size_t>(o.allocation)], kv_method_name(o.method));
}

std::int64_t budget_tokens(const KvOptions& o, const KvShape& shape) {
  const auto capacity = static_cast<double>(shape.capacity);
  const double tokens = o.budget <= 1 ? std::ceil(o.budget * capacity) : o.budget;
  return static_cast<std::int64_t>(std::min(tokens, capacity));
}

// An eviction makes room for so many positions: few, for they are kept beyond the budget meanwhile,
// but it costs about as much as attention for some tokens.
std::int64_t positions_between_evictions(std::int64_t budget) {
  return std::clamp<std::int64_t>(budget / 16, 1, kBlockTokens);
}

LayerPlan plan_layer(const KvOptions& o, const KvShape& shape, std::size_t layer,
                     std::int64_t budget) {
  const std::int64_t sliding = shape.windows.empty() ? 0 : shape.windows[layer];
  LayerPlan plan{.method = o.method, .budget = budget, .sinks = o.sinks, .window = o.window};
  if (sliding > 0 && sliding < shape.capacity) {
    plan.method = KvMethod::kWindow;
    plan.budget = sliding;
    plan.sinks = 0;
  } else if (o.method == KvMethod::kFull || budget >= shape.capacity) {
    plan.method = KvMethod::kFull;
    plan.budget = shape.capacity;
  }
  plan.limit = std::min(plan.budget + positions_between_evictions(plan.budget), shape.capacity);
  plan.ragged = plan.method != KvMethod::kFull && plan.method != KvMethod::kWindow &&
                (o.allocation == KvAllocation::kAda || o.allocation == KvAllocation::kAdaPyramid);
  if (plan.method != KvMethod::kFull && sliding == 0) {
    const std::int64_t held = plan.sinks + (plan.method == KvMethod::kWindow ? 0 : plan.window);
    if (plan.budget <= held) {
      const std::string window =
          plan.method == KvMethod::kWindow ? "" : fmt::format(" and --kv-window {}", o.window);
      throw_user(
          "--kv-budget {} of {} positions leaves {} per head in layer {}; --kv-sinks {}{} "
          "need more than {}",
          o.budget, shape.capacity, plan.budget, layer, o.sinks, window, held);
    }
  }
  return plan;
}

// The most blocks that the heads of a layer take.
void add_blocks(KvPlan& plan, const LayerPlan& layer) {
  const std::int64_t heads = plan.shape.kv_heads, tokens = heads * layer.limit;
  const auto even = [&](std::int64_t per_head) { return heads * ceil_div(per_head, kBlockTokens); };
  const auto ragged = [&](std::int64_t in_all) {
    return (in_all + heads * (kBlockTokens - 1)) / kBlockTokens;
  };
  if (plan.options.bits == 16) {
    plan.plain_blocks += layer.ragged ? ragged(tokens) : even(layer.limit);
    return;
  }
  // Of every head up to `window` positions and a block that is not full yet stay as they are.
  const std::int64_t tail = plan.options.window + kBlockTokens;
  const std::int64_t exact = layer.ragged ? tail : std::min(tail, layer.limit);
  plan.plain_blocks += even(exact);
  plan.packed_blocks +=
      layer.ragged
          ? tokens / kBlockTokens
          : heads * (std::max<std::int64_t>(layer.limit - plan.options.window, 0) / kBlockTokens);
}

}  // namespace

std::vector<std::string> kv_method_names() {
  return {kMethodNames.begin(), kMethodNames.end()};
}
std::vector<std::string> kv_allocation_names() {
  return {kAllocationNames.begin(), kAllocationNames.end()};
}
KvMethod parse_kv_method(std::string_view text, std::string_view option) {
  return parse_name<KvMethod>(kMethodNames, text, option);
}
KvAllocation parse_kv_allocation(std::string_view text, std::string_view option) {
  return parse_name<KvAllocation>(kAllocationNames, text, option);
}
std::string_view kv_method_name(KvMethod method) {
  if (method == KvMethod::kTrained) return kTrainedName;
  return kMethodNames.at(static_cast<std::size_t>(method));
}

KvPlan make_kv_plan(const KvOptions& options, const KvShape& shape) {
  check_ranges(options);
  check_storage(options, shape);
  KvPlan plan{.options = options, .shape = shape};
  const std::int64_t budget = budget_tokens(options, shape);
  const bool pyramid = options.allocation == KvAllocation::kPyramid ||
                       options.allocation == KvAllocation::kAdaPyramid;
  const std::vector<std::int64_t> budgets =
      pyramid ? pyramid_budgets(budget, options.sinks + options.window, shape)
              : std::vector<std::int64_t>(static_cast<std::size_t>(shape.layers), budget);
  for (std::size_t l = 0; l < budgets.size(); ++l) {
    plan.layers.push_back(plan_layer(options, shape, l, budgets[l]));
    add_blocks(plan, plan.layers.back());
  }
  return plan;
}

}  // namespace thimble
