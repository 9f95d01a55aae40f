// `thimble merge`: a model and adapters made one model.
#include <fmt/core.h>
#include <spdlog/spdlog.h>

#include <CLI/CLI.hpp>

#include "core/base/numeric.h"
#include "core/base/text.h"
#include "core/io/file.h"
#include "launcher/commands/command.h"
#include "launcher/job/sizes.h"
#include "launcher/trainer/exported_template.h"
#include "launcher/trainer/loaded_model.h"
#include "models/hf_export.h"
#include "models/model_files.h"
#include "models/weight_sources.h"

namespace thimble {
namespace {

namespace fs = std::filesystem;

// Of address space: what is not the largest may still lie less well.
constexpr std::int64_t kMergeSpareBytes = 256 * kMiB;

struct MergeArguments {
  std::string base, adapter, destination, dtype = "auto", max_shard_size = "5GB";
  std::vector<std::string> more;
};

void merge_on(Arena& arena, const FoundModel& found, const Transformer& model,
              const HfExport& options, const NoteFn& note) {
  MergedSource source(arena, model.config(),
                      std::make_unique<HfSource>(arena, found.directory, model.params(), note),
                      found.adapters);
  export_hf(arena, model, source, options);
}

void run_merge(const MergeArguments& a) {
  ModelChoice choice{.model = model_directory(a.base), .adapters = {a.adapter}};
  choice.adapters.insert(choice.adapters.end(), a.more.begin(), a.more.end());
  const FoundModel found = find_model(choice);
  if (fs::exists(a.destination))
    throw_user("{}: exists; name a new directory", printable(a.destination, 200));
  const auto size = job::parse_size(a.max_shard_size);
  if (!size || size->bytes < 1'000'000)
    throw_user("--max-shard-size '{}': allowed a size from 1MB, as \"5GB\"",
               printable(a.max_shard_size));
  const ModelConfig config =
      load_hf_config(found.directory, [](const std::string& note) { spdlog::warn("{}", note); });
  const Transformer model(config);
  const bool bytes = fs::exists(found.directory / kByteTokenizerMarker);
  std::vector<fs::path> files =
      exported_files(found.directory, bytes ? fs::path("byte") : found.directory);
  add_adapter_files(found.adapters, files);
  const HfExport options{.directory = a.destination,
                         .dtype = a.dtype == "auto"   ? stored_dtype(found.directory)
                                  : a.dtype == "bf16" ? DType::kBF16
                                                      : DType::kF32,
                         .max_shard_bytes = size->bytes,
                         .source_config = read_text_file(found.directory / "config.json", kMiB),
                         .files_to_copy = std::move(files),
                         .tokenizer_is_bytes = bytes};
  const std::unique_ptr<Arena> plan = Arena::make_planning();
  merge_on(*plan, found, model, options, [](const std::string& note) { spdlog::info("{}", note); });
  const std::unique_ptr<Arena> arena = Arena::make_cpu(plan->extent_bytes() + kMergeSpareBytes);
  merge_on(*arena, found, model, options, [](const std::string&) {});
  spdlog::info("merged {} with {} adapter{} into {}", found.directory.string(),
               found.adapters.size(), found.adapters.size() == 1 ? "" : "s", a.destination);
}

}  // namespace

void add_merge_command(CLI::App& app, CommandSession& session) {
  auto a = std::make_shared<MergeArguments>();
  CLI::App* merge = app.add_subcommand("merge", "Make one model of a model and its adapter");
  merge->add_option("base", a->base, "The model: a Hugging Face directory or a run")->required();
  merge
      ->add_option("adapter", a->adapter,
                   "The adapter: PEFT's directory or a run; LoRAs also as DIR=WEIGHT")
      ->required();
  merge->add_option("destination", a->destination, "A new directory")->required();
  merge->add_option("--adapter", a->more, "Another LoRA to add (repeatable)");
  merge->add_option("--dtype", a->dtype, "auto (the model's), bf16 or fp32")
      ->check(CLI::IsMember({"auto", "bf16", "fp32"}));
  merge->add_option("--max-shard-size", a->max_shard_size, "Largest safetensors file");
  merge->footer(
      "The sum is made in fp32 and rounded once.\n"
      "Example:\n"
      "  thimble merge models/base runs/lora models/merged");
  merge->callback([a, &session] {
    session.start();
    run_merge(*a);
  });
}

}  // namespace thimble
