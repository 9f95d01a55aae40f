// `thimble convert`: checkpoints, runs, llama2.c files and Hugging Face directories to a Hugging
// Face directory.
#include <fmt/core.h>
#include <spdlog/spdlog.h>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "checkpoint/checkpoint_directory.h"
#include "checkpoint/checkpoint_source.h"
#include "core/base/numeric.h"
#include "core/io/file.h"
#include "launcher/commands/command.h"
#include "launcher/job/load_job.h"
#include "launcher/job/sizes.h"
#include "launcher/run/machine.h"
#include "launcher/trainer/loaded_model.h"
#include "models/hf_export.h"
#include "models/model_files.h"
#include "models/transformer.h"
#include "models/weight_sources.h"
#include "train/train_state.h"
#include "train/weight_loading.h"

namespace thimble {
namespace {

namespace fs = std::filesystem;

struct ConvertArguments {
  std::string source, destination, dtype = "auto", max_shard_size = "5GB", tokenizer;
  bool force = false, json = false;
};

// A source opened: its configuration, its weights, the dtype it would keep and its tokenizer files.
struct Opened {
  const char* kind = "";
  ModelConfig config;
  DType dtype = DType::kBF16;
  std::unique_ptr<FileEngine> files;
  std::unique_ptr<CheckpointReader> checkpoint;
  std::unique_ptr<TensorSource> weights;
  std::string source_config;  // text of the config.json that came with the model
  fs::path model_dir;         // whose files are carried along; empty: none
  fs::path tokenizer;         // directory, file or empty
  bool byte_tokenizer = false;
};

void use_tokenizer(Opened& opened, const fs::path& tokenizer) {
  opened.tokenizer.clear();
  opened.byte_tokenizer = tokenizer == "byte" || fs::exists(tokenizer / kByteTokenizerMarker);
  if (opened.byte_tokenizer || tokenizer.empty()) return;
  if (fs::exists(tokenizer)) {
    opened.tokenizer = tokenizer;
  } else {
    spdlog::warn("the tokenizer {} is not there any more; name one with --tokenizer",
                 tokenizer.string());
  }
}

Opened open_checkpoint(const fs::path& path, bool is_run) {
  Opened opened{.kind = is_run ? "run" : "checkpoint"};
  opened.files = make_file_engine();
  const CheckpointIo io{*opened.files, {}};
  if (is_run) {
    std::vector<std::string> rejected;
    auto newest = open_newest_valid(path / "checkpoints", io, rejected);
    for (const std::string& r : rejected) spdlog::warn("passed over: {}", r);
    if (!newest) throw_user("{}: the run has no usable checkpoint", path.string());
    opened.checkpoint = std::make_unique<CheckpointReader>(std::move(*newest));
  } else {
    opened.checkpoint = std::make_unique<CheckpointReader>(CheckpointReader::open(path, io));
  }
  const CheckpointIdentity identity = checkpoint_identity(*opened.checkpoint);
  const std::string name = opened.checkpoint->path().string();
  spdlog::info("{}: step {}, every byte verified", name, opened.checkpoint->step());
  opened.config = parse_model_config(identity.model_config, name);
  const job::JobConfig trained = job::parse_job_text(identity.resolved_job, name);
  opened.dtype = trained.model.dtype;
  if (!trained.model.path.empty()) {
    opened.source_config = identity.model_config;
    opened.model_dir = trained.model.path;
    if (!fs::is_directory(opened.model_dir)) {
      spdlog::warn("the model {} is not there any more; of its other files none are carried along",
                   trained.model.path);
      opened.model_dir.clear();
    }
  }
  use_tokenizer(opened, identity.tokenizer);
  return opened;
}

Opened open_directory(const fs::path& source) {
  if (fs::exists(source / "MANIFEST")) return open_checkpoint(source, false);
  if (fs::is_directory(source / "checkpoints")) return open_checkpoint(source, true);
  if (!fs::exists(source / "config.json")) {
    throw_user(
        "{}: neither a model directory (config.json) nor a checkpoint (MANIFEST) nor a run "
        "(checkpoints/)",
        source.string());
  }
  Opened opened{.kind = "model directory"};
  opened.config = load_hf_config(source, [](const std::string& note) { spdlog::warn("{}", note); });
  opened.dtype = stored_dtype(source);
  opened.source_config = read_text_file(source / "config.json", kMiB);
  opened.model_dir = source;
  use_tokenizer(opened, source);
  return opened;
}

Opened open_source(const fs::path& source) {
  if (fs::is_directory(source)) return open_directory(source);
  Opened opened{.kind = "llama2.c file"};
  auto weights = std::make_unique<Llama2cSource>(source);
  opened.config = weights->config();
  opened.dtype = DType::kF32;
  opened.weights = std::move(weights);
  return opened;
}

// Whether `path` is `directory` or lies in it; both are canonical.
bool is_within(const fs::path& path, const fs::path& directory) {
  const fs::path inside = path.lexically_relative(directory);
  return !inside.empty() && *inside.begin() != "..";
}

// Every place that moving the destination aside would take from the source: itself, and what its
// symbolic links lead to.
std::vector<fs::path> places_of(const fs::path& source) {
  std::vector<fs::path> places{fs::canonical(source), fs::absolute(source).lexically_normal()};
  if (!fs::is_directory(source)) return places;
  for (const auto& entry :
       fs::recursive_directory_iterator(source, fs::directory_options::skip_permission_denied)) {
    if (entry.is_symlink()) places.push_back(fs::weakly_canonical(entry.path()));
  }
  return places;
}

// The destination without a trailing '/'. Refuses one that is taken (unless it is to be moved
// aside), and one with which part of the source would move.
fs::path check_destination(const ConvertArguments& a) {
  fs::path destination = fs::path(a.destination).lexically_normal();
  if (!destination.has_filename()) destination = destination.parent_path();
  if (!fs::exists(fs::symlink_status(destination))) return destination;
  const fs::path absolute = fs::absolute(destination).lexically_normal();
  // Of a link, which would be moved itself, only its own name counts; but one that leads to the
  // source is a mistake all the same.
  const fs::path real = fs::weakly_canonical(absolute.parent_path()) / absolute.filename();
  for (const fs::path& place : places_of(a.source)) {
    if (is_within(place, real) || is_within(place, absolute) ||
        place == fs::weakly_canonical(destination)) {
      throw_user("{}: writing there would replace the source {}; choose another destination",
                 a.destination, a.source);
    }
  }
  if (is_within(real, fs::canonical(a.source)))
    throw_user("{}: is part of the source {}; choose another destination", a.destination, a.source);
  if (!a.force) {
    throw_user("{}: exists; choose another destination, or move it aside with --force",
               a.destination);
  }
  return destination;
}

std::int64_t shard_bytes(const std::string& text) {
  const auto size = job::parse_size(text);
  if (!size || size->bytes < 1) {
    throw_user("--max-shard-size '{}': allowed a size such as 5GB", text);
  }
  return size->bytes;
}

bool has_tokenizer(const Opened& opened) {
  return opened.byte_tokenizer || fs::is_regular_file(opened.tokenizer) ||
         (!opened.tokenizer.empty() && !tokenizer_files(opened.tokenizer).empty());
}

void print_result(const ConvertArguments& a, const Opened& opened, DType dtype,
                  const std::optional<fs::path>& moved) {
  const std::int64_t parameters = opened.config.num_parameters();
  if (a.json) {
    nlohmann::ordered_json out{{"source", a.source},
                               {"kind", opened.kind},
                               {"destination", a.destination},
                               {"model_type", opened.config.model_type},
                               {"parameters", parameters},
                               {"dtype", dtype == DType::kBF16 ? "bf16" : "fp32"},
                               {"tokenizer", has_tokenizer(opened)}};
    if (moved) out["moved_aside"] = moved->string();
    fmt::print("{}\n", out.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace));
    return;
  }
  fmt::print("{}: {:.2f} M parameters, {}\n", a.destination, static_cast<double>(parameters) / 1e6,
             dtype == DType::kBF16 ? "bf16" : "fp32");
}

// Loads the weights into the arena and writes them; returns where what was at the destination is
// now.
std::optional<fs::path> convert_in(Arena& arena, const Transformer& model, const Opened& opened,
                                   const fs::path& source, const HfExport& target) {
  ResidentParamStore store(arena, model.params(), target.dtype, false);
  std::unique_ptr<TensorSource> read;
  if (opened.checkpoint) {
    read = std::make_unique<CheckpointSource>(*opened.checkpoint, arena, target.dtype);
  } else if (!opened.weights) {
    const bool planning = arena.device().planning;
    read = std::make_unique<HfSource>(arena, source, model.params(), [=](const std::string& note) {
      if (planning) spdlog::info("{}", note);
    });
  }
  load_weights(arena, model, store, read ? *read : *opened.weights);
  return export_hf(arena, model, store, target);
}

void run_convert(const ConvertArguments& a) {
  const fs::path destination = check_destination(a);
  const std::int64_t max_shard_bytes = shard_bytes(a.max_shard_size);
  Opened opened = open_source(a.source);
  if (!a.tokenizer.empty()) use_tokenizer(opened, a.tokenizer);
  const DType dtype = a.dtype == "auto"   ? opened.dtype
                      : a.dtype == "bf16" ? DType::kBF16
                                          : DType::kF32;
  const Transformer model(opened.config);
  const fs::path tokenizer = opened.byte_tokenizer ? fs::path("byte") : opened.tokenizer;
  const HfExport target{.directory = destination,
                        .dtype = dtype,
                        .max_shard_bytes = max_shard_bytes,
                        .source_config = opened.source_config,
                        .files_to_copy = exported_files(opened.model_dir, tokenizer),
                        .tokenizer_is_bytes = opened.byte_tokenizer};
  // Planned first, then done in an arena of that size.
  const auto plan = Arena::make_planning();
  convert_in(*plan, model, opened, a.source, target);
  const auto arena = Arena::make_cpu(plan->extent_bytes());
  const std::optional<fs::path> aside = convert_in(*arena, model, opened, a.source, target);
  if (aside) spdlog::info("what was at {} is now {}", a.destination, aside->string());
  if (!has_tokenizer(opened)) {
    spdlog::warn("{} has no tokenizer; --tokenizer carries one along", a.destination);
  }
  print_result(a, opened, dtype, aside);
}

}  // namespace

void add_convert_command(CLI::App& app, CommandSession& session) {
  auto a = std::make_shared<ConvertArguments>();
  CLI::App* convert = app.add_subcommand(
      "convert", "Make a Hugging Face directory of a run, checkpoint or llama2.c file");
  convert
      ->add_option("source", a->source,
                   "Run, checkpoint (ckpt-N), llama2.c .bin, or Hugging Face directory")
      ->required()
      ->check(CLI::ExistingPath);
  convert->add_option("destination", a->destination, "Directory to write")->required();
  convert->add_option("--dtype", a->dtype, "auto, bf16 or fp32")
      ->check(CLI::IsMember({"auto", "bf16", "fp32"}));
  convert->add_option("--max-shard-size", a->max_shard_size, "Size of a safetensors file at most");
  convert
      ->add_option("--tokenizer", a->tokenizer,
                   "Tokenizer file or directory to carry along; \"byte\": tokens are bytes")
      ->check(CLI::ExistingPath | CLI::IsMember({"byte"}));
  convert->add_flag("--force", a->force,
                    "Move what is at the destination aside, to <destination>.old-N");
  convert->add_flag("--json", a->json, "One JSON object");
  convert->footer(
      "Examples:\n"
      "  thimble convert runs/demo model-dir\n"
      "  thimble convert runs/demo/checkpoints/ckpt-200 model-dir --dtype fp32\n"
      "  thimble convert stories260K.bin stories --tokenizer tok512.bin\n"
      "  thimble convert runs/demo model-dir --force      # an earlier model-dir becomes "
      "model-dir.old-1");
  convert->callback([a, &session] {
    session.start();
    run_convert(*a);
  });
}

}  // namespace thimble
