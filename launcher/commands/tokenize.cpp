// `thimble tokenize`: text files to a memory-mapped token file.
#include <fmt/core.h>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include <spdlog/spdlog.h>

#include "core/base/numeric.h"
#include "core/ops/op_observer.h"
#include "data/summary.h"
#include "data/token_file.h"
#include "data/tokenize.h"
#include "launcher/commands/command.h"
#include "launcher/run/console.h"
#include "launcher/run/machine.h"

namespace thimble {
namespace {

struct TokenizeArguments {
  std::string tokenizer, out, format = "auto", separator;
  std::vector<std::string> inputs;
  FieldNames fields;
  int threads = 0;
  bool json = false;
};

void run_tokenize(const TokenizeArguments& a, CommandSession& session) {
  const auto tokenizer = load_tokenizer(a.tokenizer);
  SourceSpec source;
  source.paths = a.inputs;
  source.format = parse_format(a.format, "--format");
  source.fields = a.fields;
  source.document_separator = a.separator;
  const std::int64_t start = steady_now_ns();
  const auto seconds = [&] { return static_cast<double>(steady_now_ns() - start) * 1e-9; };
  TokenizeOptions options{.threads = a.threads > 0 ? a.threads : cpu_limit().usable,
                          .warn = [](const std::string& w) { spdlog::warn("{}", w); },
                          .progress = [&](const TokenizeProgress& p) {
                            if (!session.console->traits().live || p.bytes_done == 0) return;
                            const double left =
                                seconds() * static_cast<double>(p.bytes_total - p.bytes_done) / static_cast<double>(p.bytes_done);
                            session.console->set_live_line(fmt::format(
                                "{} of {}, {} tokens, left {}", format_bytes(p.bytes_done), format_bytes(p.bytes_total),
                                p.tokens, format_duration(left)));
                          }};
  tokenize_files(source, *tokenizer, a.out, options);
  session.console->end_live_line();
  const TokenFile file(a.out);
  const double bytes_per_token = text_bytes_per_token({&file});
  if (a.json) {
    const nlohmann::ordered_json out{{"file", a.out}, {"documents", file.num_documents()}, {"tokens", file.num_tokens()},
                                     {"bytes_per_token", bytes_per_token}, {"seconds", seconds()}};
    fmt::print("{}\n", out.dump());
    return;
  }
  fmt::print("{}: {} documents, {} tokens, {:.2f} bytes a token, {:.1f} s\n", a.out, file.num_documents(),
             file.num_tokens(), bytes_per_token, seconds());
}

}  // namespace

void add_tokenize_command(CLI::App& app, CommandSession& session) {
  auto a = std::make_shared<TokenizeArguments>();
  CLI::App* tokenize = app.add_subcommand("tokenize", "Tokenise text once; the file is trained on with format = \"tokens\"");
  tokenize->add_option("inputs", a->inputs, "Files or globs: .txt .jsonl .jsonl.gz")->required();
  tokenize->add_option("--tokenizer", a->tokenizer, "Directory, file, or \"byte\"")->required();
  tokenize->add_option("--out", a->out, "Token file to write")->required();
  tokenize->add_option("--format", a->format, "auto, text or prompt_completion");
  tokenize->add_option("--field-text", a->fields.text, "JSON key of the text");
  tokenize->add_option("--field-prompt", a->fields.prompt, "JSON key of the prompt");
  tokenize->add_option("--field-completion", a->fields.completion, "JSON key of the completion");
  tokenize->add_option("--document-separator", a->separator, ".txt: text between documents");
  tokenize->add_option("--threads", a->threads, "Threads (default: all)")->check(CLI::PositiveNumber);
  tokenize->add_flag("--json", a->json, "One JSON object");
  tokenize->footer("Examples:\n"
                   "  thimble tokenize --tokenizer models/SmolLM2-135M --out corpus.tokens 'corpus/*.txt'\n"
                   "  thimble tokenize --tokenizer byte --out book.tokens book.txt\n"
                   "An interrupted run continues when started again.");
  tokenize->callback([a, &session] {
    session.start();
    run_tokenize(*a, session);
  });
}

}  // namespace thimble
