#include "launcher/commands/kv_arguments.h"

#include <CLI/CLI.hpp>
#include <algorithm>

#include "compress/bases_file.h"
#include "compress/expected_attention.h"
#include "compress/kvc_file.h"
#include "launcher/job/sizes.h"
#include "models/rope_table.h"
#include "train/compressor_parts.h"

namespace thimble {
namespace {

std::vector<std::string> method_names() {
  std::vector<std::string> names = kv_method_names();
  names.insert(names.begin(), "dense");
  return names;
}

// What arguments say over `o`.
KvOptions overridden(KvOptions o, const KvArguments& a) {
  o.allocation = parse_kv_allocation(a.allocation, "--kv-allocation");
  o.budget = a.budget.value_or(o.budget);
  o.sinks = a.sinks.value_or(o.sinks);
  o.window = a.window.value_or(o.window);
  if (a.rope) o.rope_stage = *a.rope == "pre" ? RopeStage::kPre : RopeStage::kPost;
  if (a.positions)
    o.positions = *a.positions == "slots" ? PositionPolicy::kSlots : PositionPolicy::kOriginal;
  return o;
}

// Without a compressor. None: a dense cache does.
std::optional<KvOptions> resolve(const KvArguments& a) {
  KvOptions o = overridden(a.options, a);
  const bool plain = o.bits == 16 && o.rope_stage == RopeStage::kPost &&
                     o.positions == PositionPolicy::kOriginal && a.allocation == "even" &&
                     o.budget == 1;
  if (a.method == "dense" && plain) return std::nullopt;
  o.method = a.method == "dense" ? KvMethod::kFull : parse_kv_method(a.method, "--kv-method");
  return o;
}

// The compressor of a run, or of a directory.
std::filesystem::path compressor_directory(const std::filesystem::path& given) {
  if (is_compressor_directory(given / "model")) return given / "model";
  if (is_compressor_directory(given)) return given;
  throw_user("--compressor {}: no compressor (it has no {})", given.string(), kKvcConfigName);
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
  number("--compressor", a->compressor,
         "Keep what the heads of this compressor rate highest: its directory, or the run that "
         "trained it, for this model");
  command
      .add_flag("--compressor-any-weights", a->any_weights,
                "Take a compressor of a model of the same shape with other weights")
      ->group("KV cache");
  number("--kv-budget", a->budget,
         "Positions per head: a share of prompt and new tokens, or above 1 their number (default: "
         "all, or what the compressor says)");
  number("--kv-sinks", a->sinks,
         "First positions that always stay (default: 4, or what the compressor says)");
  number("--kv-window", a->window,
         "Most recent positions that always stay, exact (default: 32, or what the compressor "
         "says)");
  choice("--kv-allocation", a->allocation, "How budgets are dealt to heads and layers",
         kv_allocation_names());
  number("--kv-key-rank", a->key_rank,
         "Channels of a key that are stored, of a compressor with bases (default: what it says)");
  number("--kv-value-rank", a->value_rank, "The same of a value");
  number("--kv-pooling", a->options.pooling, "snapkv: neighbours that are averaged (default 5)");
  number("--kv-bits", a->options.bits, "Bits of keys and values before the window: 16, 8, 4, 2");
  number("--kv-group", a->options.group, "Keys of a channel that share a scale: 32 or 64");
  const auto optional_choice = [&](const char* name, std::optional<std::string>& value,
                                   const char* text, const std::vector<std::string>& allowed) {
    command.add_option(name, value, text)->check(CLI::IsMember(allowed))->group("KV cache");
  };
  optional_choice("--kv-rope", a->rope, "Keys are stored before or after RoPE", {"pre", "post"});
  optional_choice(
      "--kv-positions", a->positions,
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
  if (!is_dense()) check_model();
  if (!arguments.memory.empty()) {
    const std::optional<job::ByteSize> size = job::parse_size(arguments.memory);
    if (!size) throw_user("--kv-memory '{}': allowed sizes as 512MiB or 2GB", arguments.memory);
    limit_ = size->bytes;
  }
}

KvCaches::KvCaches(const KvArguments& arguments, const LoadedModel& loaded)
    : KvCaches(arguments, loaded.model->config(), loaded.dtype) {
  if (!arguments.compressor.empty()) open_compressor(arguments, loaded);
}

// A compressed cache has no form for it.
void KvCaches::check_model() const {
  static_cast<void>(backbone_shape(config_));
}

namespace {

// Heads choose what stays.
void take_heads(const KvArguments& arguments, KvOptions& o) {
  if (arguments.method != "dense") {
    throw_user("--kv-method {}: the heads of --compressor choose what stays; give one of them",
               arguments.method);
  }
  if (arguments.key_rank || arguments.value_rank)
    throw_user("--kv-{}-rank: the compressor has heads, not bases",
               arguments.key_rank ? "key" : "value");
  o.method = KvMethod::kTrained;
}

// Bases leave it to any method what stays.
void take_bases(const KvArguments& arguments, KvcConfig& config, KvOptions& o) {
  const auto take = [&](const char* option, const std::optional<std::int64_t>& from,
                        std::int64_t& rank) {
    if (!from) return;
    if (*from < 1 || *from > config.base.head_dim)
      throw_user("{} {}: allowed 1 to {}, the channels of a head", option, *from,
                 config.base.head_dim);
    rank = *from;
  };
  take("--kv-key-rank", arguments.key_rank, config.compressor.ranks.key);
  take("--kv-value-rank", arguments.value_rank, config.compressor.ranks.value);
  o.method = arguments.method == "dense" ? KvMethod::kFull
                                         : parse_kv_method(arguments.method, "--kv-method");
}

}  // namespace

void KvCaches::open_compressor(const KvArguments& arguments, const LoadedModel& loaded) {
  check_model();
  const std::filesystem::path directory = compressor_directory(arguments.compressor);
  KvcConfig config = load_kvc_config(directory);
  // All weights are read for it: once, on the arena that plans.
  if (loaded.arena->device().planning) {
    if (!loaded.adapters.empty() && !arguments.any_weights) {
      throw_user(
          "--compressor {}: with --adapter the model has other weights than those it was trained "
          "for; --compressor-any-weights takes it all the same",
          arguments.compressor);
    }
    check_base(config, kvc_base(config_, loaded.directory), directory, arguments.any_weights);
  }
  KvOptions o = arguments.options;
  const bool heads = config.compressor.kind == CompressorKind::kLocret;
  if (heads) {
    take_heads(arguments, o);
  } else {
    take_bases(arguments, config, o);
  }
  o.budget = config.compressor.cache.budget;
  o.sinks = config.compressor.cache.sinks;
  o.window = config.compressor.cache.window;
  o.rope_stage = config.rope_stage;
  o.positions = config.positions;
  const BackboneShape shape = backbone_shape(config_);
  if (heads) {
    o.heads = load_heads(*loaded.arena, config, shape, directory, dtype_);
    static_bytes_ = o.heads->bytes();
  } else {
    o.bases = load_bases(*loaded.arena, config, shape, directory, dtype_);
    static_bytes_ = o.bases->bytes();
  }
  options_ = overridden(std::move(o), arguments);
  compressor_name_ = compressor_kind_name(config.compressor.kind);
}

KvShape KvCaches::shape(std::int64_t capacity) const {
  return kv_shape_of(config_, dtype_, capacity);
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
                     format_bytes(dense),
                     compressor_name_.empty() ? kv_method_name(options_->method)
                                              : std::string_view(compressor_name_),
                     options_->bits < 16 ? fmt::format(", {} bits", options_->bits) : "") +
         (static_bytes_ == 0
              ? ""
              : fmt::format(" beside {} of the compressor", format_bytes(static_bytes_)));
}

}  // namespace thimble
