// `thimble convert`: checkpoints of any format to another one.
#include <fmt/core.h>
#include <spdlog/spdlog.h>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "core/base/numeric.h"
#include "core/base/text.h"
#include "core/base/threads.h"
#include "launcher/commands/command.h"
#include "launcher/commands/convert_destination.h"
#include "launcher/commands/version.h"
#include "launcher/convert/conversion.h"
#include "launcher/convert/open_image.h"
#include "launcher/convert/partial_conversion.h"
#include "launcher/job/load_job.h"
#include "launcher/job/sizes.h"
#include "launcher/job/write_job.h"
#include "models/hf_export.h"
#include "models/model_files.h"

namespace thimble {
namespace {

namespace fs = std::filesystem;

struct ConvertArguments {
  std::string source, destination, to, dtype = "auto", max_shard_size = "5GB", memory = "2GiB";
  std::string model, tokenizer, job;
  std::int64_t tensor_parallel = 1, pipeline_parallel = 1, ranks = 1, stage = 1, threads = 0;
  std::int64_t sub_group_size = 1'000'000'000;
  bool trainer_groups = false;
  bool force = false, json = false, verify = false, allow_cast = false, weights_only = false;
};

void use_tokenizer(ModelOrigin& origin, const fs::path& tokenizer) {
  origin.tokenizer.clear();
  origin.byte_tokenizer = tokenizer == "byte" || fs::exists(tokenizer / kByteTokenizerMarker);
  if (origin.byte_tokenizer || tokenizer.empty()) return;
  if (fs::exists(tokenizer)) {
    origin.tokenizer = tokenizer;
  } else {
    spdlog::warn("the tokenizer {} is not there any more; name one with --tokenizer",
                 tokenizer.string());
  }
}

// The model that a checkpoint without a configuration belongs to.
ModelOrigin origin_of_model(const fs::path& model) {
  if (std::optional<ModelOrigin> origin = directory_origin(model)) return *origin;
  if (!fs::is_regular_file(model))
    throw_user("--model {}: allowed a directory with a config.json, or such a file",
               model.string());
  ModelOrigin origin{.config = load_model_config(model)};
  origin.source_config = read_text_file(model, kMiB);
  return origin;
}

CheckpointImage open_source(const ConvertArguments& a) {
  CheckpointImage image = open_image(a.source);
  if (!a.model.empty()) image.origin = origin_of_model(a.model);
  if (image.origin) use_tokenizer(*image.origin, image.origin->tokenizer_or_marker());
  if (image.origin && !a.tokenizer.empty()) use_tokenizer(*image.origin, a.tokenizer);
  return image;
}

std::int64_t size_of(const char* option, const std::string& text) {
  const auto size = job::parse_size(text);
  if (!size || size->bytes < 1) throw_user("{} '{}': allowed a size such as 5GB", option, text);
  return size->bytes;
}

constexpr std::int64_t kLeastMemory = 64 * kMiB;  // of a thread

// How many write at once: what is asked for, else as many as there are CPUs and memory for.
std::int64_t threads_of(const ConvertArguments& a) {
  if (a.threads > 0) return a.threads;
  return std::clamp<std::int64_t>(size_of("--memory", a.memory) / kLeastMemory, 1, team_threads());
}

// A part of a thread's memory is that of a window; the rest is for its copies, for pickles and the
// program.
std::int64_t window_bytes(const ConvertArguments& a) {
  const std::int64_t bytes = size_of("--memory", a.memory);
  const std::int64_t least = kLeastMemory * threads_of(a);
  if (bytes < least)
    throw_user("--memory '{}': at least {} are needed", a.memory, format_bytes(least));
  return std::clamp(bytes / 16 / threads_of(a), kMiB, 256 * kMiB);
}

bool has_tokenizer(const ModelOrigin& origin) {
  return origin.byte_tokenizer || fs::is_regular_file(origin.tokenizer) ||
         (!origin.tokenizer.empty() && !tokenizer_files(origin.tokenizer).empty());
}

struct TargetName {
  const char* name;
  ConversionTarget target;
};
constexpr std::array<TargetName, 8> kTargets{{{"hf", ConversionTarget::kHuggingFace},
                                              {"thimble", ConversionTarget::kThimble},
                                              {"torch", ConversionTarget::kTorch},
                                              {"dcp", ConversionTarget::kDcp},
                                              {"ucp", ConversionTarget::kUniversal},
                                              {"zero", ConversionTarget::kZero},
                                              {"megatron", ConversionTarget::kMegatron},
                                              {"gguf", ConversionTarget::kGguf}}};

std::vector<std::string> target_names() {
  std::vector<std::string> names;
  for (const TargetName& t : kTargets) names.emplace_back(t.name);
  return names;
}

// What is asked for, or what the destination's name says.
ConversionTarget target_of(const ConvertArguments& a) {
  for (const TargetName& t : kTargets) {
    if (a.to == t.name) return t.target;
  }
  const std::string extension = fs::path(a.destination).extension();
  if (extension == ".gguf") return ConversionTarget::kGguf;
  return extension == ".pt" || extension == ".pth" || extension == ".bin"
             ? ConversionTarget::kTorch
             : ConversionTarget::kHuggingFace;
}

struct DTypeName {
  const char* name;
  GgufType type;
};
constexpr std::array<DTypeName, 5> kDTypes{{{"bf16", GgufType::kBF16},
                                            {"fp32", GgufType::kF32},
                                            {"fp16", GgufType::kF16},
                                            {"q8_0", GgufType::kQ8_0},
                                            {"q4_0", GgufType::kQ4_0}}};

std::vector<std::string> dtype_names() {
  std::vector<std::string> names{"auto"};
  for (const DTypeName& d : kDTypes) names.emplace_back(d.name);
  return names;
}

ConversionRequest request_of(const ConvertArguments& a) {
  ConversionRequest request{
      .target = target_of(a), .allow_cast = a.allow_cast, .weights_only = a.weights_only};
  for (const DTypeName& d : kDTypes) {
    if (a.dtype != d.name) continue;
    if (request.target == ConversionTarget::kGguf) {
      request.gguf_type = d.type;
    } else if (d.type == GgufType::kBF16 || d.type == GgufType::kF32) {
      request.dtype = d.type == GgufType::kBF16 ? DType::kBF16 : DType::kF32;
    } else {
      throw_user("--dtype {}: allowed with --to gguf; here auto, bf16 or fp32", a.dtype);
    }
  }
  return request;
}

std::int64_t num_elements(const CheckpointImage& image) {
  std::int64_t count = 0;
  for (const auto& [name, param] : image.params) count += param.weight.numel();
  return count;
}

void print_result(const ConvertArguments& a, const CheckpointImage& image,
                  const std::optional<fs::path>& moved) {
  const std::int64_t parameters = num_elements(image);
  const char* dtype = image.dtype == DType::kBF16 ? "bf16" : "fp32";
  const bool tokenizer = image.origin && has_tokenizer(*image.origin);
  if (a.json) {
    nlohmann::ordered_json out{{"source", a.source},
                               {"kind", image.kind},
                               {"destination", a.destination},
                               {"model_type", image.origin ? image.origin->config.model_type : ""},
                               {"parameters", parameters},
                               {"dtype", dtype},
                               {"optimizer_state", image.has_state()},
                               {"step", image.step},
                               {"tokenizer", tokenizer}};
    if (moved) out["moved_aside"] = moved->string();
    fmt::print("{}\n", out.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace));
    return;
  }
  fmt::print("{}: {:.2f} M parameters, {}{}\n", a.destination,
             static_cast<double>(parameters) / 1e6, dtype,
             image.has_state() ? fmt::format(", state of AdamW at step {}", image.step) : "");
}

// The job that a checkpoint is made for; refused if its state would not be what is written.
std::string job_text(const std::string& file) {
  if (file.empty()) return "";
  job::JobNotes notes;
  const job::JobConfig job = job::load_job(file, {}, notes);
  const auto refuse = [&](const char* key, std::string_view allowed) {
    throw_user("{}: {}: a converted checkpoint holds {}", file, key, allowed);
  };
  if (job.optimizer.name != "adamw" || !job.optimizer.groups.empty())
    refuse("optimizer", "the state of optimizer.name = \"adamw\" without groups");
  if (job.optimizer.state_dtype != StateFormat::kF32)
    refuse("optimizer.state_dtype", "moments in fp32");
  if (job.model.dtype != DType::kF32 && job.model.master_weights != MasterFormat::kF32)
    refuse("model.master_weights", "master weights in fp32");
  return job::resolved_job_text(job);
}

// Says what was found, and what of it is lost.
void say_source(const ConvertArguments& a, const CheckpointImage& image) {
  spdlog::info("{}: {}, {} tensors{}{}", a.source, image.kind, image.params.size(),
               image.step > 0 ? fmt::format(", step {}", image.step) : "",
               image.has_state() ? ", with the state of Adam" : "");
}

const char* holder_name(ConversionTarget target) {
  if (target == ConversionTarget::kMegatron) return "converted checkpoint of Megatron";
  return target == ConversionTarget::kGguf ? "GGUF file" : "model directory";
}

// All that decides what is written: an earlier start of the same is continued.
std::string identity_of(const ConvertArguments& a, const WriteOptions& options) {
  const nlohmann::ordered_json options_text{static_cast<int>(target_of(a)),
                                            a.dtype,
                                            a.allow_cast,
                                            a.weights_only,
                                            a.tokenizer,
                                            options.max_shard_bytes,
                                            options.tensor_parallel,
                                            options.pipeline_parallel,
                                            options.ranks,
                                            options.zero_stage,
                                            options.trainer_groups,
                                            options.sub_group_size,
                                            options.job_text};
  return fmt::format("{}\n{}\n{}\n{}", thimble_version(), options_text.dump(),
                     source_identity(a.source), a.model.empty() ? "" : source_identity(a.model));
}

// Writes beside the destination and puts it there; returns where what was there is now.
std::optional<fs::path> write_to(const fs::path& destination, const ConvertArguments& a,
                                 const CheckpointImage& image) {
  WriteOptions options{.window_bytes = window_bytes(a),
                       .threads = threads_of(a),
                       .max_shard_bytes = size_of("--max-shard-size", a.max_shard_size),
                       .tensor_parallel = a.tensor_parallel,
                       .pipeline_parallel = a.pipeline_parallel,
                       .ranks = a.ranks,
                       .zero_stage = a.stage,
                       .trainer_groups = a.trainer_groups,
                       .sub_group_size = a.sub_group_size,
                       .gguf_type = chosen_gguf_type(image, request_of(a)),
                       .job_text = job_text(a.job)};
  PartialConversion partial(destination, identity_of(a, options), a.force);
  if (partial.is_continued())
    spdlog::info("goes on with what an earlier start has finished in {}",
                 partial.place().parent_path().string());
  options.finished = &partial.finished();
  const bool is_file =
      target_of(a) == ConversionTarget::kTorch || target_of(a) == ConversionTarget::kGguf;
  const fs::path place = is_file ? partial.place() / destination.filename() : partial.place();
  try {
    write_image(image, target_of(a), place, options);
  } catch (const SystemError&) {
    // A full disk, a lost mount: what is finished is worth another start.
    if (!partial.finished().empty()) {
      partial.keep();
      spdlog::warn("what is finished stays in {}; the same command goes on with it",
                   partial.place().parent_path().string());
    }
    throw;
  }
  if (a.verify && target_of(a) == ConversionTarget::kGguf) {
    verify_gguf_image(image, place, options);
  } else if (a.verify || target_of(a) == ConversionTarget::kHuggingFace) {
    verify_image(image, place, options);
  }
  return partial.put_in_place(place);
}

void run_convert(const ConvertArguments& a) {
  const fs::path destination = check_destination(a.source, a.destination, a.force);
  // Mistakes are found before anything is read.
  static_cast<void>(window_bytes(a));
  static_cast<void>(job_text(a.job));
  static_cast<void>(size_of("--max-shard-size", a.max_shard_size));
  if (target_of(a) != ConversionTarget::kMegatron && a.tensor_parallel * a.pipeline_parallel != 1)
    throw_user("--tensor-parallel and --pipeline-parallel: allowed with --to megatron");
  if (target_of(a) != ConversionTarget::kZero && (a.ranks != 1 || a.stage != 1 || a.trainer_groups))
    throw_user("--ranks, --stage and --trainer-groups: allowed with --to zero");
  const ConversionRequest request = request_of(a);
  CheckpointImage source = open_source(a);
  say_source(a, source);
  const bool had_state = source.has_state();
  const CheckpointImage image = output_image(std::move(source), request);
  for (const std::string& note : image.notes) spdlog::warn("{}", note);
  if (had_state && !image.has_state() && !a.weights_only)
    spdlog::info("a {} holds no optimizer state: the weights alone are written",
                 holder_name(request.target));
  const std::optional<fs::path> aside = write_to(destination, a, image);
  if (aside) spdlog::info("what was at {} is now {}", a.destination, aside->string());
  if (request.target == ConversionTarget::kHuggingFace && !has_tokenizer(*image.origin))
    spdlog::warn("{} has no tokenizer; --tokenizer carries one along", a.destination);
  print_result(a, image, aside);
}

void add_options(CLI::App& convert, ConvertArguments& a) {
  convert
      .add_option("source", a.source,
                  "Run, checkpoint, Hugging Face directory, file of torch.save or llama2.c")
      ->required()
      ->check(CLI::ExistingPath);
  convert.add_option("destination", a.destination, "Directory or file to write")->required();
  convert
      .add_option("--to", a.to,
                  "Format to write: hf, thimble, torch, dcp (torch.distributed), ucp (DeepSpeed's "
                  "universal), zero (DeepSpeed's ZeRO), megatron or gguf (llama.cpp); else by the "
                  "destination's name: torch for .pt, .pth and .bin, gguf for .gguf, and hf")
      ->check(CLI::IsMember(target_names()));
  convert
      .add_option("--dtype", a.dtype,
                  "Of the weights: auto, bf16 or fp32; of a GGUF file also fp16, q8_0 or q4_0")
      ->check(CLI::IsMember(dtype_names()));
  convert.add_flag("--allow-cast", a.allow_cast, "Weights may lose precision");
  convert.add_flag("--weights-only", a.weights_only, "Leave optimizer state out");
  convert.add_flag("--verify", a.verify,
                   "Read everything back and compare it (of a model directory always done)");
  convert.add_option("--memory", a.memory, "Memory to use, about");
  convert
      .add_option("--tensor-parallel", a.tensor_parallel,
                  "Ranks that each matrix is cut over, for Megatron")
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{4096}));
  convert
      .add_option("--pipeline-parallel", a.pipeline_parallel,
                  "Ranks that the layers are cut over, for Megatron")
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{4096}));
  convert.add_option("--ranks", a.ranks, "Data-parallel ranks that state is cut over, for ZeRO")
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{65536}));
  convert.add_option("--stage", a.stage, "Stage of ZeRO: 1, 2 or 3")
      ->check(CLI::IsMember(std::vector<std::int64_t>{1, 2, 3}));
  convert.add_flag(
      "--trainer-groups", a.trainer_groups,
      "ZeRO's optimizer has the two groups of transformers' Trainer: what decays, then "
      "norms and biases");
  convert
      .add_option("--sub-group-size", a.sub_group_size,
                  "sub_group_size of the configuration that ZeRO-3 continues with")
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{1} << 48));
  convert.add_option("--threads", a.threads, "Threads that write; 0: one per CPU")
      ->check(CLI::Range(std::int64_t{0}, std::int64_t{256}));
  convert.add_option("--max-shard-size", a.max_shard_size, "Size of a safetensors file at most");
  convert
      .add_option("--model", a.model,
                  "Model directory or config.json of a source that has no configuration")
      ->check(CLI::ExistingPath);
  convert.add_option("--job", a.job, "Job file that a Thimble checkpoint is to be continued with")
      ->check(CLI::ExistingFile);
  convert
      .add_option("--tokenizer", a.tokenizer,
                  "Tokenizer file or directory to carry along; \"byte\": tokens are bytes")
      ->check(CLI::ExistingPath | CLI::IsMember({"byte"}));
  convert.add_flag("--force", a.force,
                   "Move what is at the destination aside, to <destination>.old-N");
  convert.add_flag("--json", a.json, "One JSON object");
}

}  // namespace

void add_convert_command(CLI::App& app, CommandSession& session) {
  auto a = std::make_shared<ConvertArguments>();
  CLI::App* convert =
      app.add_subcommand("convert", "Convert models and checkpoints between formats");
  add_options(*convert, *a);
  convert->footer(
      "Examples:\n"
      "  thimble convert runs/demo model-dir\n"
      "  thimble convert runs/demo/checkpoints/ckpt-200 model-dir --dtype fp32\n"
      "  thimble convert stories260K.bin stories --tokenizer tok512.bin\n"
      "  thimble convert zero3-run start --to thimble --model model-dir --verify\n"
      "  thimble convert runs/demo demo-dcp --to dcp\n"
      "  thimble convert runs/demo demo-zero --to zero --stage 2 --ranks 8\n"
      "  thimble convert model-dir megatron --to megatron --tensor-parallel 2\n"
      "  thimble convert runs/demo demo.gguf --dtype q8_0     # for llama.cpp and Ollama\n"
      "  thimble convert runs/demo model-dir --force      # an earlier model-dir becomes "
      "model-dir.old-1");
  convert->callback([a, &session] {
    session.start();
    run_convert(*a);
  });
}

}  // namespace thimble
