// `thimble inspect`: look into models, checkpoints, token files, tokenizers and a job's data.
#include <fmt/core.h>
#include <spdlog/spdlog.h>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "checkpoint/checkpoint_reader.h"
#include "checkpoint/manifest.h"
#include "core/base/text.h"
#include "core/io/safetensors_model.h"
#include "data/summary.h"
#include "data/token_file.h"
#include "launcher/commands/command.h"
#include "launcher/commands/inspect_data.h"
#include "launcher/commands/inspect_image.h"
#include "launcher/trainer/loaded_model.h"
#include "models/decoder.h"
#include "models/weight_sources.h"
#include "parallel/flight_recorder.h"
#include "train/train_state.h"

namespace thimble {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

struct InspectArguments {
  std::string path, text, model, special_tokens = "parse";
  std::vector<std::int32_t> ids;
  std::int64_t sequences = 3;
  bool json = false;
};

// Names and texts come from untrusted files and need not be UTF-8.
void print_json(const Json& json) {
  fmt::print("{}\n", json.dump(-1, ' ', false, Json::error_handler_t::replace));
}

Json config_json(const ModelConfig& c) {
  return {{"model_type", c.model_type},
          {"parameters", c.num_parameters()},
          {"layers", c.num_layers},
          {"hidden_size", c.hidden_size},
          {"intermediate_size", c.intermediate_size},
          {"heads", c.num_heads},
          {"kv_heads", c.num_kv_heads},
          {"head_dim", c.head_dim},
          {"vocab_size", c.vocab_size},
          {"max_positions", c.max_positions},
          {"tied_lm_head", c.tied_lm_head}};
}

void inspect_model(const InspectArguments& a) {
  const fs::path directory = model_directory(a.path);
  const ModelConfig config =
      load_hf_config(directory, [](const std::string& note) { spdlog::warn("{}", note); });
  const SafetensorsModel files = SafetensorsModel::open(directory);
  std::int64_t bytes = 0;
  Json tensors = Json::array();
  for (const auto& [name, location] : files.tensors()) {
    const SafetensorsEntry& entry = *location.entry;
    bytes += entry.bytes;
    if (a.json) {
      tensors.push_back({{"name", name},
                         {"dtype", entry.dtype_text},
                         {"shape", entry.shape},
                         {"bytes", entry.bytes}});
    } else {
      fmt::print("{:<52} {:<5} {:<16} {:>11}\n", printable(name, 200), printable(entry.dtype_text),
                 fmt::format("[{}]", fmt::join(entry.shape, ", ")), format_bytes(entry.bytes));
    }
  }
  if (a.json) {
    Json out = config_json(config);
    out["bytes"] = bytes;
    out["tensors"] = tensors;
    print_json(out);
    return;
  }
  fmt::print(
      "{}: {}, {:.2f} M parameters in {}, {} layers of {}, {} query and {} key heads of {}, "
      "vocabulary {}, {} positions, LM head {}\n",
      directory.string(), config.model_type, static_cast<double>(config.num_parameters()) / 1e6,
      format_bytes(bytes), config.num_layers, config.hidden_size, config.num_heads,
      config.num_kv_heads, config.head_dim, config.vocab_size, config.max_positions,
      config.tied_lm_head ? "tied" : "untied");
}

void require_directory(const std::string& path) {
  if (!fs::is_directory(path)) throw_user("{}: no such directory", path);
}

void inspect_checkpoint(const InspectArguments& a) {
  const fs::path path = a.path;
  if (!fs::exists(path)) throw_user("{}: no such file or directory", a.path);
  if (!fs::exists(path / kManifestName) && !fs::is_directory(path / "checkpoints"))
    return inspect_image(path, a.json);
  const auto files = make_file_engine();
  const CheckpointReader reader = CheckpointReader::open(a.path, {*files, {}});
  const TrainState state = checkpoint_state(reader);
  std::int64_t bytes = 0;
  for (const auto& [key, placed] : reader.tensors()) {
    bytes += placed.bytes;
    if (!a.json) fmt::print("{:<64} {}\n", printable(key, 200), describe(placed.tensor));
  }
  if (a.json) {
    print_json({{"step", reader.step()},
                {"uuid", reader.uuid()},
                {"tensors", reader.tensors().size()},
                {"bytes", bytes},
                {"tokens_seen", state.tokens_seen},
                {"trained_tokens", state.trained_tokens},
                {"valid", true}});
    return;
  }
  fmt::print("{}: step {}, {} arrays, {}, {} tokens seen; every byte verified\n", a.path,
             reader.step(), reader.tensors().size(), format_bytes(bytes), state.tokens_seen);
}

void inspect_tokens(const InspectArguments& a) {
  const TokenFile file(a.path);
  const TokenFileHeader& header = file.header();
  const double bytes_per_token = text_bytes_per_token({&file});
  std::int64_t prompt_tokens = 0;
  for (std::int64_t i = 0; i < file.num_documents(); ++i) prompt_tokens += file.prompt_tokens(i);
  if (a.json) {
    print_json({{"documents", file.num_documents()},
                {"tokens", file.num_tokens()},
                {"prompts", file.has_prompts()},
                {"prompt_tokens", prompt_tokens},
                {"vocab_size", header.vocab_size},
                {"bytes", header.text_bytes},
                {"bytes_per_token", bytes_per_token},
                {"empty", header.num_empty},
                {"duplicates", header.num_duplicates}});
    return;
  }
  fmt::print(
      "{}: {} documents, {} tokens of {} ids, {:.2f} bytes per token, {} empty left out, {} "
      "duplicates{}\n",
      a.path, file.num_documents(), file.num_tokens(), header.vocab_size, bytes_per_token,
      header.num_empty, header.num_duplicates,
      file.has_prompts() ? fmt::format(", {} tokens in prompts", prompt_tokens) : "");
}

Json id_or_null(const std::optional<std::int32_t>& id) {
  return id ? Json(*id) : Json();
}

std::vector<std::int32_t> special_ids(const Tokenizer& tokenizer) {
  std::vector<std::int32_t> ids;
  for (std::int64_t i = 0; i < tokenizer.vocab_size(); ++i) {
    if (tokenizer.is_special(static_cast<std::int32_t>(i))) {
      ids.push_back(static_cast<std::int32_t>(i));
    }
  }
  return ids;
}

void inspect_tokenizer(const InspectArguments& a) {
  const auto tokenizer = load_tokenizer(a.path);
  const std::vector<std::int32_t> ids =
      tokenizer->encode(a.text, {.parse_special = a.special_tokens == "parse"});
  const std::vector<std::int32_t> special = special_ids(*tokenizer);
  const auto named = [&](const std::vector<std::int32_t>& list) {
    Json out = Json::array();
    for (const std::int32_t id : list) {
      out.push_back({{"id", id}, {"text", std::string(tokenizer->token_text(id))}});
    }
    return out;
  };
  if (a.json) {
    print_json({{"vocab_size", tokenizer->vocab_size()},
                {"bos_id", id_or_null(tokenizer->bos_id())},
                {"eos_id", id_or_null(tokenizer->eos_id())},
                {"pad_id", id_or_null(tokenizer->pad_id())},
                {"add_bos", tokenizer->add_bos()},
                {"special", named(special)},
                {"ids", ids},
                {"pieces", named(ids)}});
    return;
  }
  const auto name = [](const std::optional<std::int32_t>& id) {
    return id ? std::to_string(*id) : std::string("none");
  };
  fmt::print("vocabulary {}, BOS {}{}, EOS {}, PAD {}\n", tokenizer->vocab_size(),
             name(tokenizer->bos_id()), tokenizer->add_bos() ? " (put before a document)" : "",
             name(tokenizer->eos_id()), name(tokenizer->pad_id()));
  constexpr std::size_t kShown = 40;
  for (std::size_t i = 0; i < std::min(kShown, special.size()); ++i) {
    fmt::print("special {:>8}  {}\n", special[i], printable(tokenizer->token_text(special[i])));
  }
  if (special.size() > kShown) {
    fmt::print("... and {} more special tokens (--json lists them)\n", special.size() - kShown);
  }
  if (a.text.empty()) return;
  fmt::print("{} tokens\n", ids.size());
  for (const std::int32_t i : ids) {
    fmt::print("{:>16}  '{}'\n", i, printable(tokenizer->token_text(i)));
  }
}

void inspect_logits(const InspectArguments& a) {
  const LoadedModel loaded = load_model({a.model, {}}, "fp32", [&](LoadedModel& planned) {
    Decoder decoder(*planned.arena, *planned.model, *planned.store, planned.dtype,
                    static_cast<std::int64_t>(a.ids.size()));
    static_cast<void>(decoder.feed(a.ids));
  });
  const std::int64_t vocab = loaded.model->config().vocab_size;
  for (const std::int32_t id : a.ids) {
    if (id < 0 || id >= vocab) throw_user("--ids {}: allowed 0 to {}", id, vocab - 1);
  }
  const auto count = static_cast<std::int64_t>(a.ids.size());
  if (count > loaded.model->config().max_positions) {
    throw_user("--ids: {} ids, but the model has {} positions", count,
               loaded.model->config().max_positions);
  }
  Decoder decoder(*loaded.arena, *loaded.model, *loaded.store, loaded.dtype, count);
  const std::vector<float> logits = decoder.feed(a.ids);
  if (a.json) {
    print_json({{"input_ids", {a.ids}}, {"logits_last", {logits}}});
    return;
  }
  for (std::size_t i = 0; i < logits.size(); ++i) fmt::print("{:>8} {:.9g}\n", i, logits[i]);
}

// Registers one of the things to look into.
void inspect_ranks(const InspectArguments& a) {
  require_directory(a.path);
  const fs::path logs = fs::path(a.path) / "logs";
  const std::vector<FlightRecord> records =
      fs::is_directory(logs) ? read_flight_records(logs) : std::vector<FlightRecord>();
  if (records.empty()) {
    throw_user(
        "{}: no flight records; ranks of mpirun or srun leave them there, `thimble launch` "
        "reads its own",
        logs.string());
  }
  if (a.json) {
    Json ranks = Json::array();
    for (const FlightRecord& r : records) {
      ranks.push_back({{"rank", r.rank}, {"host", r.host}, {"step", r.step}, {"at", r.text()}});
    }
    print_json({{"ranks", ranks}, {"divergence", first_divergence(records)}});
    return;
  }
  for (const FlightRecord& r : records) fmt::print("rank {} on {}: {}\n", r.rank, r.host, r.text());
  fmt::print("{}\n", first_divergence(records));
}

class Registrar {
 public:
  Registrar(CLI::App& inspect, CommandSession& session)
      : inspect_(inspect), session_(session), a_(std::make_shared<InspectArguments>()) {}

  template <typename Run>
  CLI::App* add(const char* name, const char* help, const char* example, Run run) {
    CLI::App* sub = inspect_.add_subcommand(name, help);
    sub->add_flag("--json", a_->json, "One JSON object");
    sub->footer(std::string("Example:\n  thimble inspect ") + example);
    sub->callback([a = a_, &session = session_, run] {
      session.start();
      run(*a, session);
    });
    return sub;
  }
  InspectArguments& arguments() { return *a_; }

 private:
  CLI::App& inspect_;
  CommandSession& session_;
  std::shared_ptr<InspectArguments> a_;
};

void add_files(Registrar& inspect) {
  InspectArguments& a = inspect.arguments();
  CLI::App* model =
      inspect.add("model", "Architecture, tensors and sizes of a model directory or run",
                  "model models/SmolLM2-135M --json",
                  [](const InspectArguments& x, CommandSession&) { inspect_model(x); });
  model->add_option("path", a.path, "Hugging Face directory or run")->required();
  CLI::App* checkpoint =
      inspect.add("checkpoint",
                  "Arrays of a checkpoint; verifies every byte of Thimble's, lists those of others",
                  "checkpoint runs/demo/checkpoints/ckpt-200",
                  [](const InspectArguments& x, CommandSession&) { inspect_checkpoint(x); });
  checkpoint->add_option("path", a.path, "Directory ckpt-N, or any checkpoint that convert reads")
      ->required();
  CLI::App* tokens =
      inspect.add("tokens", "Size of a token file", "tokens corpus.tokens",
                  [](const InspectArguments& x, CommandSession&) { inspect_tokens(x); });
  tokens->add_option("path", a.path, "File *.tokens")->required();
}

void add_ranks(Registrar& inspect) {
  InspectArguments& a = inspect.arguments();
  CLI::App* ranks = inspect.add(
      "ranks", "What each rank of a run did last, and which one fell behind", "ranks runs/demo",
      [](const InspectArguments& x, CommandSession&) { inspect_ranks(x); });
  ranks->add_option("path", a.path, "Run directory")->required();
}

void add_contents(Registrar& inspect) {
  InspectArguments& a = inspect.arguments();
  CLI::App* tokenizer =
      inspect.add("tokenizer", "Special tokens, and the pieces of a text",
                  "tokenizer models/SmolLM2-135M --text \"Hello\"",
                  [](const InspectArguments& x, CommandSession&) { inspect_tokenizer(x); });
  tokenizer->add_option("path", a.path, "Directory, file or \"byte\"")->required();
  tokenizer->add_option("--text", a.text, "Text to tokenise");
  add_special_tokens_option(*tokenizer, a.special_tokens);
  CLI::App* data =
      inspect.add("data", "Sequences as they are trained on, and a summary of the data",
                  "data job.toml -n 3", [](const InspectArguments& x, CommandSession& session) {
                    inspect_data(x.path, x.sequences, x.json, session);
                  });
  data->add_option("path", a.path, "Job file")->required();
  data->add_option("-n,--sequences", a.sequences, "Sequences to show")
      ->check(CLI::Range(0, 1 << 20));
  CLI::App* logits =
      inspect.add("logits", "Logits after the last of some ids, in f32",
                  "logits --model DIR --ids 1,2,3 --json",
                  [](const InspectArguments& x, CommandSession&) { inspect_logits(x); });
  logits->add_option("--model", a.model, "Hugging Face directory or run")->required();
  logits->add_option("--ids", a.ids, "Token ids, comma-separated")
      ->delimiter(',')
      ->check(
          [](const std::string& id) { return std::string(id.empty() ? "an id is missing" : ""); })
      ->required();
}

}  // namespace

void add_inspect_command(CLI::App& app, CommandSession& session) {
  CLI::App* inspect = app.add_subcommand(
      "inspect",
      "Look into a model, checkpoint, token file, tokenizer, a job's data or a run's ranks");
  inspect->require_subcommand(1);
  inspect->footer(
      "Examples:\n"
      "  thimble inspect model models/SmolLM2-135M\n"
      "  thimble inspect checkpoint runs/demo/checkpoints/ckpt-200\n"
      "  thimble inspect data job.toml -n 3\n"
      "  thimble inspect tokenizer models/SmolLM2-135M --text \"Hello\"");
  Registrar registrar(*inspect, session);
  add_files(registrar);
  add_ranks(registrar);
  add_contents(registrar);
}

}  // namespace thimble
