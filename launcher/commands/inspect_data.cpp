#include "launcher/commands/inspect_data.h"

#include <fmt/core.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>

#include "core/base/text.h"
#include "data/training_data.h"
#include "launcher/commands/command.h"
#include "launcher/commands/tokenize_progress.h"
#include "launcher/job/load_job.h"
#include "launcher/plan/job_setup.h"
#include "launcher/run/console.h"

namespace thimble {
namespace {

using Json = nlohmann::ordered_json;

bool begins_document(const Batch& sequence, std::size_t i) {
  return i == 0 || sequence.segment_start[i] != sequence.segment_start[i - 1];
}

// Padding is one document at the end of the sequence: zeros without loss.
std::size_t padding_begin(const Batch& sequence) {
  const std::size_t n = sequence.tokens.size();
  if (n == 0) return 0;
  const auto begin = static_cast<std::size_t>(sequence.segment_start.back());
  for (std::size_t i = begin; i < n; ++i) {
    if (sequence.tokens[i] != 0 || sequence.weights[i] != 0.0f) return n;
  }
  return begin;
}

std::span<const std::int32_t> ids_of(const Batch& sequence, const TokenRun& run) {
  return std::span(sequence.tokens)
      .subspan(static_cast<std::size_t>(run.begin), static_cast<std::size_t>(run.end - run.begin));
}

// The target of a document's last position, if it has one: the document goes on in another
// sequence.
std::optional<std::int32_t> next_elsewhere(const Batch& sequence, const TokenRun& run) {
  const auto end = static_cast<std::size_t>(run.end);
  const bool ends = end == sequence.tokens.size() || begins_document(sequence, end);
  if (!ends || sequence.weights[end - 1] == 0.0f) return std::nullopt;
  return sequence.targets[end - 1];
}

std::string readable(const Tokenizer& tokenizer, std::span<const std::int32_t> ids) {
  constexpr std::size_t kLongest = std::size_t{1} << 20;
  return printable(tokenizer.decode(ids, {.skip_special = false}), kLongest);
}

std::string run_text(const Batch& sequence, const TokenRun& run, const Tokenizer& tokenizer,
                     bool color) {
  const auto ids = ids_of(sequence, run);
  if (run.padding) return fmt::format("  padding: {} positions without loss\n", ids.size());
  std::string text = readable(tokenizer, ids);
  if (color && run.trained) text = fmt::format("\x1b[32m{}\x1b[0m", text);
  text = fmt::format("    {} {}\n            ids {}\n", run.trained ? "[train]" : "[     ]", text,
                     fmt::join(ids, " "));
  if (const auto next = next_elsewhere(sequence, run)) {
    text += fmt::format("    [train] {}\n            ids {} (goes on in another sequence)\n",
                        readable(tokenizer, std::span(&*next, 1)), *next);
  }
  return text;
}

Json sequence_json(const Batch& sequence, std::int64_t id, std::int64_t place,
                   const Tokenizer& tokenizer) {
  Json runs = Json::array();
  for (const TokenRun& run : token_runs(sequence)) {
    const auto ids = ids_of(sequence, run);
    runs.push_back({{"document", run.document},
                    {"begin", run.begin},
                    {"trained", run.trained},
                    {"padding", run.padding},
                    {"ids", std::vector<std::int32_t>(ids.begin(), ids.end())},
                    {"text", run.padding ? "" : tokenizer.decode(ids, {.skip_special = false})}});
    if (const auto next = next_elsewhere(sequence, run)) runs.back()["next_id"] = *next;
  }
  return {{"sequence", id}, {"place", place}, {"runs", runs}};
}

/// How long samples are: a bar for each power of two, and what the loss is on.
std::string lengths_text(const DataSummary& s, std::int64_t seq_len) {
  std::string text;
  const std::int64_t most =
      s.lengths.empty() ? 0 : *std::max_element(s.lengths.begin(), s.lengths.end());
  constexpr std::int64_t kWidest = 40;
  for (std::size_t i = 0; i < s.lengths.size(); ++i) {
    if (s.lengths[i] == 0) continue;
    const std::int64_t from = std::int64_t{1} << i;
    const auto bar = static_cast<std::size_t>((s.lengths[i] * kWidest + most - 1) / most);
    text += fmt::format("  {:>7} to {:>7} tokens {:>8}  {}{}\n", from, 2 * from - 1, s.lengths[i],
                        std::string(bar, '#'), from > seq_len ? "  longer than a sequence" : "");
  }
  if (s.train_tokens > 0) {
    text += fmt::format(
        "  {:.1f} % of the tokens of training are trained on\n",
        100 * static_cast<double>(s.trained_tokens) / static_cast<double>(s.train_tokens));
  }
  return text;
}

Json summary_json(const DataSummary& s) {
  return {{"sources", s.sources},
          {"samples", s.samples},
          {"tokens", s.tokens},
          {"length_p50", s.p50},
          {"length_p90", s.p90},
          {"length_p99", s.p99},
          {"longest", s.longest},
          {"lengths", s.lengths},
          {"empty", s.empty},
          {"duplicates", s.duplicates},
          {"without_trained_tokens", s.without_trained_tokens},
          {"dropped", s.dropped},
          {"truncated", s.truncated},
          {"split", s.split},
          {"train_sequences", s.train_sequences},
          {"train_tokens", s.train_tokens},
          {"trained_tokens", s.trained_tokens},
          {"packing_efficiency", s.packing_efficiency},
          {"bytes_per_token", s.bytes_per_token}};
}

}  // namespace

std::vector<TokenRun> token_runs(const Batch& sequence) {
  const std::size_t n = sequence.tokens.size();
  const std::size_t padding = padding_begin(sequence);
  std::vector<TokenRun> runs;
  std::int64_t document = -1;
  for (std::size_t i = 0; i < n; ++i) {
    const bool first = begins_document(sequence, i);
    document += first ? 1 : 0;
    const bool trained = !first && sequence.weights[i - 1] != 0.0f;
    if (first || runs.back().trained != trained) {
      runs.push_back({.document = document,
                      .begin = static_cast<std::int64_t>(i),
                      .trained = trained,
                      .padding = i >= padding});
    }
    runs.back().end = static_cast<std::int64_t>(i) + 1;
  }
  return runs;
}

std::string sequence_text(const Batch& sequence, const Tokenizer& tokenizer, bool color) {
  std::string text;
  std::int64_t document = -1;
  for (const TokenRun& run : token_runs(sequence)) {
    if (run.document != document && !run.padding) {
      text += fmt::format("  document {} of the sequence, from position {}\n", run.document + 1,
                          run.begin);
    }
    document = run.document;
    text += run_text(sequence, run, tokenizer, color);
  }
  return text;
}

void inspect_data(const std::string& job, std::int64_t sequences, bool json,
                  CommandSession& session) {
  job::JobNotes notes;
  const job::JobConfig loaded = job::load_job(job, {}, notes);
  for (const std::string& o : notes.overrides) spdlog::info("{}", o);
  for (const std::string& w : notes.warnings) spdlog::warn("{}", w);
  TrainSpec spec = make_spec(loaded);
  spec.data.threads = apply_threads(loaded.threads);
  const auto tokenizer = open_tokenizer(spec.tokenizer, spec.model);
  const auto data = open_training_data(
      spec.data, *tokenizer, [](const std::string& w) { spdlog::warn("{}", w); },
      tokenize_progress(session));
  session.console->end_live_line();
  const bool color = ::isatty(STDOUT_FILENO) == 1 && session.console->traits().color;
  Json shown = Json::array();
  for (std::int64_t place = 0; place < std::min(sequences, data->train().num_sequences());
       ++place) {
    const std::int64_t id = data->sampler().sequence_at(place);
    const Batch sequence = data->train().get_sequences(std::span(&id, 1));
    if (json) {
      shown.push_back(sequence_json(sequence, id, place, *tokenizer));
    } else {
      fmt::print("sequence {}, number {} of training\n{}", id, place + 1,
                 sequence_text(sequence, *tokenizer, color));
    }
  }
  if (json) {
    const Json out{{"sequences", shown}, {"summary", summary_json(data->summary())}};
    fmt::print("{}\n", out.dump(-1, ' ', false, Json::error_handler_t::replace));
  } else {
    for (const std::string& source : data->summary().sources) fmt::print("{}\n", source);
    fmt::print("{}\n{}", summary_text(data->summary()),
               lengths_text(data->summary(), spec.data.seq_len));
  }
}

}  // namespace thimble
