// `thimble calibrate`: bases for a compressed KV cache, in closed form from the keys and values
// that a model makes of a text.
#include <spdlog/spdlog.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <numeric>

#include "compress/bases_file.h"
#include "core/io/file.h"
#include "data/file_kind.h"
#include "data/utf8.h"
#include "launcher/commands/command.h"
#include "launcher/trainer/loaded_model.h"
#include "models/rope_table.h"
#include "train/compressor_parts.h"

namespace thimble {
namespace {

struct CalibrateArguments {
  std::string model, text, destination, dtype = "auto";
  std::int64_t context = 0, tokens = 65536, key_rank = 0, value_rank = 0;
};

// A model that runs over windows of a text, and what it sees there.
class Calibration {
 public:
  Calibration(LoadedModel& loaded, std::int64_t context)
      : loaded_(loaded),
        context_(context),
        rope_table_(make_rope_table(*loaded.arena, loaded.model->config(), context)),
        moments_(*loaded.arena, backbone_shape(loaded.model->config())) {}

  void text(std::span<const std::int32_t> ids) {
    for (; !ids.empty(); ids = ids.subspan(std::min(ids.size(), window())))
      run(ids.first(std::min(ids.size(), window())));
  }
  // On a planning arena.
  void plan() { run(std::vector<std::int32_t>(window())); }
  const ChannelMoments& moments() const { return moments_; }

 private:
  std::size_t window() const { return static_cast<std::size_t>(context_); }

  void run(std::span<const std::int32_t> ids) {
    const auto n = static_cast<std::int64_t>(ids.size());
    Batch batch{.sequences = 1, .seq_len = n};
    batch.tokens.assign(ids.begin(), ids.end());
    batch.targets.assign(ids.size(), 0);
    batch.weights.assign(ids.size(), 0);
    batch.segment_start.assign(ids.size(), 0);
    batch.positions.resize(ids.size());
    std::iota(batch.positions.begin(), batch.positions.end(), 0);
    const BatchTensors t = upload(*loaded_.arena, batch);
    Context ctx{.store = *loaded_.store, .arena = *loaded_.arena, .dtype = loaded_.dtype};
    static_cast<void>(loaded_.model->hidden(ctx, t.ids, t.order,
                                            {.sequences = 1,
                                             .positions = t.positions,
                                             .segment_start = t.segment_start,
                                             .rope_table = rope_table_,
                                             .tap = &moments_}));
  }

  LoadedModel& loaded_;
  std::int64_t context_;
  Tensor rope_table_;
  ChannelMoments moments_;
};

std::int64_t context_of(const CalibrateArguments& a, const ModelConfig& model) {
  constexpr std::int64_t kUsual = 2048;
  if (a.context > model.max_positions)
    throw_user("--context {}: the model has {} positions", a.context, model.max_positions);
  return a.context > 0 ? a.context : std::min(model.max_positions, kUsual);
}

ChannelRanks ranks_of(const CalibrateArguments& a, std::int64_t head_dim) {
  const auto rank = [head_dim](const char* option, std::int64_t wanted) {
    if (wanted < 0 || wanted > head_dim)
      throw_user("{} {}: heads have {} channels; allowed 1 to {}", option, wanted, head_dim,
                 head_dim);
    return wanted > 0 ? wanted : std::max<std::int64_t>(head_dim / 2, 1);
  };
  return {rank("--key-rank", a.key_rank), rank("--value-rank", a.value_rank)};
}

std::vector<std::int32_t> text_tokens(const CalibrateArguments& a, const LoadedModel& loaded) {
  const MappedFile file(a.text);
  check_is_text(a.text, file.text());
  std::vector<std::int32_t> ids;
  if (loaded.tokenizer->add_bos() && loaded.tokenizer->bos_id())
    ids.push_back(*loaded.tokenizer->bos_id());
  loaded.tokenizer->encode_to(without_byte_order_mark(file.text()), {}, ids);
  ids.resize(std::min(ids.size(), static_cast<std::size_t>(a.tokens)));
  const std::int64_t least = loaded.model->config().head_dim;
  if (static_cast<std::int64_t>(ids.size()) < least) {
    throw_user("{}: {} tokens; bases of {} channels need {} or more", a.text, ids.size(), least,
               least);
  }
  return ids;
}

void run_calibrate(const CalibrateArguments& a) {
  if (std::filesystem::exists(a.destination)) throw_user("{}: exists", a.destination);
  std::int64_t context = 0;
  ChannelRanks ranks;
  LoadedModel loaded = load_model({a.model, {}}, a.dtype, [&](LoadedModel& planned) {
    context = context_of(a, planned.model->config());
    ranks = ranks_of(a, planned.model->config().head_dim);
    Calibration(planned, context).plan();
  });
  const std::vector<std::int32_t> ids = text_tokens(a, loaded);
  Calibration calibration(loaded, context);
  calibration.text(ids);
  const ModelConfig& model = loaded.model->config();
  const KvcConfig config{
      .base = kvc_base(model, loaded.directory),
      .compressor = {.kind = CompressorKind::kMatryoshka, .ranks = ranks, .cache = {.budget = 1}},
      .training = {.data = std::filesystem::path(a.text).filename().string()}};
  export_bases({.directory = a.destination, .dtype = DType::kF32, .config = config},
               calibration.moments());
  spdlog::info("{} tokens; {} keeps {} of {} channels of keys and {} of values", ids.size(),
               a.destination, ranks.key, model.head_dim, ranks.value);
}

}  // namespace

void add_calibrate_command(CLI::App& app, CommandSession& session) {
  auto a = std::make_shared<CalibrateArguments>();
  CLI::App* calibrate = app.add_subcommand(
      "calibrate", "Find bases in which a model's keys and values need fewer channels");
  calibrate->add_option("--model", a->model, "Hugging Face directory or run")->required();
  calibrate->add_option("--text", a->text, "Text that the model runs over (.txt)")->required();
  calibrate->add_option("--out", a->destination, "A new directory, for --compressor")->required();
  calibrate->add_option("--tokens", a->tokens, "Tokens of the text at most (default 65536)")
      ->check(CLI::PositiveNumber);
  calibrate
      ->add_option("--context", a->context, "Tokens at once (default: the model's, at most 2048)")
      ->check(CLI::PositiveNumber);
  calibrate->add_option("--key-rank", a->key_rank,
                        "Channels of a key that a cache keeps (default: half)");
  calibrate->add_option("--value-rank", a->value_rank, "The same of a value");
  calibrate->add_option("--dtype", a->dtype, "auto, bf16 or fp32")
      ->check(CLI::IsMember({"auto", "bf16", "fp32"}));
  calibrate->footer(
      "All channels are written, the most important first: --kv-key-rank and --kv-value-rank of\n"
      "`generate` and `eval` keep others.\n"
      "Example:\n"
      "  thimble calibrate --model DIR --text book.txt --out bases --key-rank 32 --value-rank 40\n"
      "  thimble generate --model DIR --compressor bases --prompt-file long.txt");
  calibrate->callback([a, &session] {
    session.start();
    run_calibrate(*a);
  });
}

}  // namespace thimble
