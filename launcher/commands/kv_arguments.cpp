#include "launcher/commands/kv_arguments.h"

#include <CLI/CLI.hpp>
#include <algorithm>

#include "compress/expected_attention.h"
#include "launcher/job/sizes.h"
#include "models/rope_table.h"

namespace thimble {
namespace {

std::vector<std::string> method_names() {
  std::vector<std::string> names = kv_method_names();
  names.insert(names.begin(), "dense");
  return names;
}

// None: a dense cache does.
std::optional<KvOptions> resolve(const KvArguments& a) {
  KvOptions o = a.options;
  const bool plain = o.bits == 16 && a.rope == "post" && a.positions == "original" &&
                     a.allocation == "even" && o.budget == 1;
  if (a.method == "dense" && plain) return std::nullopt;
  o.method = a.method == "dense" ? KvMethod::kFull : parse_kv_method(a.method, "--kv-method");
  o.allocation = parse_kv_allocation(a.allocation, "--kv-allocation");
  o.rope_stage = a.rope == "pre" ? RopeStage::kPre : RopeStage::kPost;
  o.positions = a.positions == "slots" ? PositionPolicy::kSlots : PositionPolicy::kOriginal;
  return o;
}

}  // namespace

void add_kv_options(CLI::App& command, const std::shared_ptr<KvArguments>& a) {
  const auto choice = [&](const char* name, std::string& value, const char* text,
                          const std::vector<std::string>& allowed) {
    command.add_option(name, value, text)->check(CLI::IsMember(allowed))->group("KV cache");
  };
  const auto number = [&](const char* name, auto& value, const char* text) {
    command.add_option(name, value, text)->group("KV cache");
  };
  choice("--kv-method", a->method, "Which positions a head keeps (default: dense, all)",
         method_names());
  number("--kv-budget", a->options.budget,
         "Positions per head: a share of prompt and new tokens, or above 1 their number");
  number("--kv-sinks", a->options.sinks, "First positions that always stay (default 4)");
  number("--kv-window", a->options.window,
         "Most recent positions that always stay, exact (default 32)");
  choice("--kv-allocation", a->allocation, "How budgets are dealt to heads and layers",
         kv_allocation_names());
  number("--kv-pooling", a->options.pooling, "snapkv: neighbours that are averaged (default 5)");
  number("--kv-bits", a->options.bits, "Bits of keys and values before the window: 16, 8, 4, 2");
  number("--kv-group", a->options.group, "Keys of a channel that share a scale: 32 or 64");
  choice("--kv-rope", a->rope, "Keys are stored before or after RoPE", {"pre", "post"});
  choice("--kv-positions", a->positions,
         "Positions of the text, or places in the cache, for texts longer than the model's context",
         {"original", "slots"});
  number("--kv-memory", a->memory, "The most bytes of caches, as 512MiB (default: what is free)");
  command
      .add_option("--prefill-chunk", a->prompt_chunk, "Tokens of a prompt at once (default 512)")
      ->check(CLI::PositiveNumber)
      ->group("KV cache");
}

KvCaches::KvCaches(const KvArguments& arguments, const ModelConfig& config, DType dtype)
    : options_(resolve(arguments)),
      config_(config),
      dtype_(dtype),
      prompt_chunk_(arguments.prompt_chunk) {
  if (!arguments.memory.empty()) {
    const std::optional<job::ByteSize> size = job::parse_size(arguments.memory);
    if (!size) throw_user("--kv-memory '{}': allowed sizes as 512MiB or 2GB", arguments.memory);
    limit_ = size->bytes;
  }
  if (is_dense()) return;
  if (config.attention_softcap > 0)
    throw_user("a compressed cache with attn_logit_softcapping, as {} has it, is not supported",
               config.model_type);
  if (config.rotary_dim > 0)
    throw_user("a compressed cache with partial_rotary_factor, as {} has it, is not supported",
               config.model_type);
}

KvShape KvCaches::shape(std::int64_t capacity) const {
  return {.layers = config_.num_layers,
          .heads = config_.num_heads,
          .kv_heads = config_.num_kv_heads,
          .head_dim = config_.head_dim,
          .windows = config_.windows,
          .dtype = dtype_,
          .capacity = capacity};
}

std::unique_ptr<KvCache> KvCaches::make(Arena& arena, std::int64_t capacity) const {
  if (is_dense()) return std::make_unique<DenseKvCache>(arena, config_, dtype_, capacity);
  const KvPlan plan = make_kv_plan(*options_, shape(capacity));
  for (std::size_t l = 0; l < plan.layers.size() && is_endless(); ++l) {
    const std::int64_t slots = std::min(plan.layers[l].limit + prompt_chunk_, capacity);
    if (slots > config_.max_positions) {
      throw_user(
          "--kv-positions slots: layer {} holds up to {} positions and a chunk of {}; the model "
          "has "
          "{}: lower --kv-budget or --prefill-chunk",
          l, plan.layers[l].limit, prompt_chunk_, config_.max_positions);
    }
  }
  return std::make_unique<CompressedKvCache>(arena, plan);
}

Tensor KvCaches::make_table(Arena& arena, std::int64_t capacity) const {
  const bool ahead = options_ && options_->method == KvMethod::kExpected &&
                     config_.rope_scaling.type != RopeScaling::Type::kDynamic &&
                     config_.rope_scaling.type != RopeScaling::Type::kLongrope;
  return make_rope_table(arena, config_, capacity + (ahead ? kLookAhead : 0));
}

std::int64_t KvCaches::bytes(std::int64_t capacity) const {
  return is_dense() ? dense_bytes(capacity)
                    : CompressedKvCache::planned_bytes(make_kv_plan(*options_, shape(capacity)));
}

std::int64_t KvCaches::dense_bytes(std::int64_t capacity) const {
  return shape(capacity).dense_bytes();
}

void KvCaches::check_fits(const std::vector<std::int64_t>& capacities, std::int64_t limit) const {
  std::int64_t wanted = 0, positions = 0;
  for (const std::int64_t capacity : capacities) {
    wanted += bytes(capacity);
    positions += capacity;
  }
  if (wanted <= limit) return;
  const double share = static_cast<double>(limit) / static_cast<double>(wanted);
  throw_user(
      "the key-value cache of {} positions wants {} and {} {}; about {} positions would fit, or "
      "the "
      "same with a smaller --kv-budget or fewer --kv-bits",
      positions, format_bytes(wanted), format_bytes(limit),
      limit_ ? "are allowed (--kv-memory)" : "are free",
      static_cast<std::int64_t>(share * static_cast<double>(positions)));
}

std::string KvCaches::describe(const std::vector<std::int64_t>& capacities) const {
  std::int64_t mine = 0, dense = 0, positions = 0;
  for (const std::int64_t capacity : capacities) {
    mine += bytes(capacity);
    dense += dense_bytes(capacity);
    positions += capacity;
  }
  if (is_dense())
    return fmt::format("key-value cache {} for {} positions", format_bytes(mine), positions);
  return fmt::format("key-value cache {} for {} positions, {:.1f} % of the dense {} ({}{})",
                     format_bytes(mine), positions,
                     100 * static_cast<double>(mine) / static_cast<double>(dense),
                     format_bytes(dense), kv_method_name(options_->method),
                     options_->bits < 16 ? fmt::format(", {} bits", options_->bits) : "");
}

}  // namespace thimble
