// `thimble init`: a commented job file to start from.
#include <fmt/core.h>
#include <spdlog/spdlog.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <filesystem>

#include "core/base/error.h"
#include "core/base/numeric.h"
#include "core/io/file.h"
#include "data/document_reader.h"
#include "data/tokenizer.h"
#include "launcher/commands/command.h"
#include "launcher/commands/run_outlook.h"
#include "launcher/job/load_job.h"
#include "launcher/job/paths.h"
#include "launcher/job/write_job.h"
#include "launcher/plan/job_setup.h"
#include "launcher/plan/machine_rates.h"
#include "launcher/trainer/loaded_model.h"
#include "models/hf_export.h"
#include "models/model_config.h"

namespace thimble {
namespace {

namespace fs = std::filesystem;

constexpr double kScratchLr = 6e-4;
// A model that sees its data for more epochs than this learns it by heart.
constexpr double kTuneEpochs = 3, kScratchEpochs = 10;
constexpr std::int64_t kLeastStepsAnEpoch = 8, kShortestSequence = 64;

struct InitArguments {
  std::string model, config, size, tokenizer, out = "job.toml";
  std::vector<std::string> data;
  FieldNames fields;
  bool force = false;
};

// A path as it is written in the job: relative to the job's folder unless it was given absolute.
std::string from_job(const std::string& path, const fs::path& folder) {
  if (fs::path(path).is_absolute()) return path;
  return fs::absolute(path).lexically_normal().lexically_relative(folder).string();
}

void check_free(const fs::path& file, bool force) {
  if (fs::is_directory(file)) throw_user("{}: a directory; name a file", file.string());
  if (const fs::path parent = fs::absolute(file).parent_path(); !fs::is_directory(parent))
    throw_user("{}: its directory does not exist; make it first", file.string());
  if (fs::exists(file) && !force) throw_user("{}: exists; --force overwrites it", file.string());
}

bool holds(const fs::path& file, const std::string& text) {
  std::error_code ignored;
  return fs::is_regular_file(file, ignored) && fs::file_size(file, ignored) == text.size() &&
         read_text_file(file, static_cast<std::int64_t>(text.size())) == text;
}

// The configuration of a model of a named size for this tokenizer, not written yet.
ModelConfig sized_config(const std::string& size, const std::string& tokenizer_path) {
  auto config = named_model_config(size);
  if (!config) throw_user("--size '{}': allowed 20m, 60m, 130m, 350m, 1b, 2b, 7b", size);
  const auto tokenizer = load_tokenizer(tokenizer_path);
  config->vocab_size = tokenizer->vocab_size();
  config->bos_id = tokenizer->bos_id();
  config->eos_ids.clear();
  if (tokenizer->eos_id()) config->eos_ids.push_back(*tokenizer->eos_id());
  return *config;
}

// A directory with a model, or the name of one on the Hub, which is found when the job is loaded.
fs::path check_model(const std::string& model) {
  if (fs::is_directory(model)) return model_directory(model) / "config.json";
  const fs::path path(model);
  const bool hub_name = !path.is_absolute() && std::distance(path.begin(), path.end()) == 2 &&
                        !model.starts_with(".") && !model.ends_with("/");
  if (fs::exists(model) || !hub_name) {
    throw_user("--model {}: not a directory; allowed a model directory or org/name of the Hub",
               model);
  }
  const fs::path cached = job::find_in_hub_cache(model, job::process_environment());
  return cached.empty() ? fs::path() : cached / "config.json";
}

// The tokenizer that the job's `model.tokenizer` means; empty: the model's own.
fs::path tokenizer_path(const InitArguments& a, const std::string& tokenizer) {
  if (!tokenizer.empty()) return tokenizer;
  const fs::path model = check_model(a.model).parent_path();
  return fs::exists(model / kByteTokenizerMarker) ? fs::path("byte") : model;
}

// Sequences, batch and duration that suit the data.
void fit_to_data(const DataLook& look, std::int64_t positions, job::InitValues& values,
                 DataSpec& spec) {
  spec.seq_len = std::min(values.seq_len, positions);
  const bool prompts = std::any_of(look.train.begin(), look.train.end(),
                                   [](const SourceLook& s) { return s.has_prompts; });
  for (const SourceLook& s : look.train) {
    if (s.has_prompts && s.longest > spec.seq_len)
      spec.seq_len = std::min(round_up(s.longest, 128), positions);
  }
  while (!prompts && spec.seq_len > kShortestSequence &&
         look.tokens() < kLeastStepsAnEpoch * spec.seq_len)
    spec.seq_len /= 2;
  const std::int64_t sequences = look.sequences(spec);
  while (values.global_batch_size > 1 && sequences < kLeastStepsAnEpoch * values.global_batch_size)
    values.global_batch_size /= 2;
  const double most = values.from_scratch ? kScratchEpochs : kTuneEpochs;
  if (static_cast<double>(values.max_steps * values.global_batch_size) >
      most * static_cast<double>(sequences))
    values.num_epochs = most;
  values.seq_len = spec.seq_len;
}

// Prints what the new job amounts to and what would be refused.
void print_outlook(const std::string& file, const ModelConfig& config) {
  job::JobNotes notes;
  const job::JobConfig job = job::load_job(file, {}, notes);
  const TrainSpec spec = make_spec(job);
  apply_threads(job.threads);
  try {
    const RunOutlook outlook = look_ahead(job, spec, *open_tokenizer(spec.tokenizer, spec.model));
    const double flops = static_cast<double>(outlook.step_tokens) *
                         config.train_flops_per_token(spec.engine.seq_len);
    fmt::print(
        "{}\n",
        outlook_text(outlook, flops / matmul_rate_here(spec.device, spec.engine.dtype).value));
  } catch (const UserError& error) {
    spdlog::warn("the job would be refused: {}", error.what());
  }
}

void run_init(const InitArguments& a) {
  const auto given = static_cast<int>(!a.model.empty()) + static_cast<int>(!a.config.empty()) +
                     static_cast<int>(!a.size.empty());
  if (given != 1) {
    throw_user("give one of --model (fine-tune), --size and --config (both from scratch)");
  }
  check_free(a.out, a.force);
  static_cast<void>(expand_paths(a.data));
  const fs::path folder = fs::absolute(a.out).lexically_normal().parent_path();
  job::InitValues values;
  values.from_scratch = a.model.empty();
  const std::string tokenizer = a.tokenizer.empty() && values.from_scratch ? "byte" : a.tokenizer;
  values.tokenizer =
      tokenizer.empty() || tokenizer == "byte" ? tokenizer : from_job(tokenizer, folder);
  for (const std::string& path : a.data) values.data.push_back(from_job(path, folder));
  if (values.from_scratch) values.lr = kScratchLr;
  const FieldNames usual;
  const auto map_field = [&values](const char* ours, const std::string& key,
                                   const std::string& usual_key) {
    if (key != usual_key) values.fields[ours] = key;
  };
  map_field("text", a.fields.text, usual.text);
  map_field("prompt", a.fields.prompt, usual.prompt);
  map_field("completion", a.fields.completion, usual.completion);

  std::optional<ModelConfig> config;
  fs::path sized;  // written once nothing can be refused any more
  if (!a.size.empty()) {
    config = sized_config(a.size, tokenizer);
    const fs::path file = folder / (a.size + ".json");
    // The config.json written for an earlier job of this size and tokenizer is used again.
    if (!holds(file, model_config_json(*config, "bfloat16"))) check_free(file, a.force);
    sized = file;
    values.model = file.filename().string();
  } else if (!a.config.empty()) {
    config = load_model_config(a.config);
    values.model = from_job(a.config, folder);
  } else {
    const fs::path file = check_model(a.model);
    if (!file.empty()) config = load_model_config(file);
    values.model = fs::is_directory(a.model) ? from_job(a.model, folder) : a.model;
  }
  if (config) {
    DataSpec spec;
    spec.train.emplace_back().paths = a.data;
    spec.train.back().fields = a.fields;
    fs::path& files = spec.train.back().chat.tokenizer = tokenizer_path(a, tokenizer);
    fit_to_data(look_at_data(spec, *load_tokenizer(files)), config->max_positions, values, spec);
  }
  if (!sized.empty()) {
    write_file_atomic(sized, model_config_json(*config, "bfloat16"));
    spdlog::info("{}: {:.1f} M parameters with a vocabulary of {}", sized.string(),
                 static_cast<double>(config->num_parameters()) / 1e6, config->vocab_size);
  }
  write_file_atomic(a.out, job::commented_job_text(values));
  fmt::print("{}\n", a.out);
  if (config) print_outlook(a.out, *config);
  fmt::print("next: thimble plan {0}; thimble train {0}\n", a.out);
}

}  // namespace

void add_init_command(CLI::App& app, CommandSession& session) {
  auto a = std::make_shared<InitArguments>();
  CLI::App* init = app.add_subcommand("init", "Write a commented job file for a model and data");
  init->add_option("--model", a->model, "Hugging Face directory to fine-tune, or org/name");
  init->add_option("--size", a->size,
                   "Train from scratch at this size: 20m, 60m, 130m, 350m, 1b, 2b, 7b");
  init->add_option("--config", a->config, "config.json of a model to train from scratch");
  init->add_option("--tokenizer", a->tokenizer,
                   "Tokenizer directory or file, or \"byte\" (default: the model's; byte from "
                   "scratch)");
  init->add_option("--data", a->data, "Training files or globs (repeatable)")->required();
  add_field_options(*init, a->fields);
  init->add_option("--out", a->out, "Job file to write");
  init->add_flag("--force", a->force, "Overwrite existing files");
  init->footer(
      "Examples:\n"
      "  thimble init --model models/SmolLM2-135M --data pairs.jsonl\n"
      "  thimble init --size 20m --data book.txt --out book.toml\n"
      "  thimble init --config my.json --tokenizer tok/ --data 'corpus/*.txt' --out big.toml");
  init->callback([a, &session] {
    session.start();
    run_init(*a);
  });
}

}  // namespace thimble
