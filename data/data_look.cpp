#include "data/data_look.h"

#include <algorithm>
#include <cmath>

#include "core/base/error.h"
#include "core/base/numeric.h"
#include "core/io/file.h"
#include "data/document_reader.h"
#include "data/token_file.h"
#include "data/tokenize.h"

namespace thimble {
namespace {

constexpr std::size_t kMostFiles = 16;
constexpr std::int64_t kTextBytes = std::int64_t{4} << 20;       // read of a source, about
constexpr std::int64_t kPieceBytesRead = std::int64_t{1} << 20;  // tokenised of one piece

// Takes every n-th file, so that a file of another kind at the end is seen too.
std::vector<std::string> some_of(const std::vector<std::string>& files) {
  const std::size_t count = std::min(kMostFiles, files.size());
  std::vector<std::string> some;
  for (std::size_t i = 0; i < count; ++i) {
    some.push_back(files[count == 1 ? 0 : i * (files.size() - 1) / (count - 1)]);
  }
  return some;
}

class Look {
 public:
  Look(const SourceSpec& source, const Tokenizer& tokenizer)
      : source_(source), tokenizer_(tokenizer), files_(expand_paths(source.paths)) {
    source_.format = resolve_format(source, files_);
    look_.name = files_.front();
    look_.has_prompts = source_.format != SampleFormat::kText;
    chat_ = chat_template_of(source_, tokenizer);
  }

  SourceLook take() {
    if (source_.format == SampleFormat::kTokens) {
      count_tokens();
      return look_;
    }
    for (const std::string& file : files_) look_.total_bytes += File::open_read(file).size();
    const std::vector<std::string> some = some_of(files_);
    look_.exact = some.size() == files_.size();
    for (const std::string& file : some) {
      read_some(file, kTextBytes / narrow<std::int64_t>(some.size()));
    }
    const double share =
        look_.exact || look_.read_bytes == 0
            ? 1.0
            : static_cast<double>(look_.total_bytes) / static_cast<double>(look_.read_bytes);
    look_.tokens = std::llround(tokens_ * share);
    // One document whose end was not seen does not tell how many there are.
    look_.documents =
        documents_ <= 1 ? documents_ : std::llround(static_cast<double>(documents_) * share);
    return look_;
  }

 private:
  void count_tokens() {
    const TokenFile file(files_.front());
    file.check_tokenizer(tokenizer_.digest(), tokenizer_.name());
    look_.documents = file.num_documents();
    look_.tokens = file.num_tokens();
    look_.has_prompts = file.has_prompts();
    for (std::int64_t i = 0; i < file.num_documents(); ++i)
      look_.longest = std::max(look_.longest, file.document_tokens(i));
  }

  void read_some(const std::string& file, std::int64_t limit) {
    // An estimate may cut anywhere, so that of a large file only some pieces are in memory.
    DocumentReader reader(
        source_, {file}, {}, [](auto, auto) { return true; }, chat_);
    std::int64_t bytes = 0;
    double of_document = 0;
    while (bytes < limit) {
      std::optional<DocumentPiece> piece = reader.next();
      if (!piece.has_value()) {
        look_.read_bytes += reader.bytes_total();
        return;
      }
      const auto size = narrow<std::int64_t>(piece->prompt.size() + piece->text.size());
      bytes += size;
      const double tokens = count_piece(*piece);
      of_document = piece->begins ? tokens : of_document + tokens;
      look_.longest = std::max<std::int64_t>(look_.longest, std::llround(of_document));
      tokens_ += tokens;
      documents_ += piece->begins && tokens > 0 ? 1 : 0;
    }
    look_.exact = false;
    look_.read_bytes +=
        std::max<std::int64_t>(1, std::min(reader.bytes_done(), reader.bytes_total()));
  }

  // Only the beginning of a long piece is tokenised.
  double count_piece(DocumentPiece& piece) {
    const auto size = narrow<std::int64_t>(piece.text.size());
    double scale = 1;
    if (size > kPieceBytesRead && !piece.chat) {
      piece.text.resize(static_cast<std::size_t>(kPieceBytesRead));
      scale = static_cast<double>(size) / static_cast<double>(kPieceBytesRead);
      look_.exact = false;
    }
    std::vector<std::int32_t> ids;
    return static_cast<double>(
               tokenize_piece(piece, tokenizer_, source_.parse_special, ids).tokens) *
           scale;
  }

  SourceSpec source_;
  std::shared_ptr<const ChatTemplate> chat_;
  const Tokenizer& tokenizer_;
  std::vector<std::string> files_;
  SourceLook look_;
  double tokens_ = 0;
  std::int64_t documents_ = 0;
};

bool fails_when_long(const SourceLook& source, const DataSpec& spec) {
  return spec.excess_length.value_or(source.has_prompts
                                         ? ExcessLength::kError
                                         : ExcessLength::kSplit) == ExcessLength::kError;
}

}  // namespace

std::int64_t DataLook::documents() const {
  std::int64_t sum = 0;
  for (const SourceLook& s : train) sum += s.documents;
  return sum;
}

std::int64_t DataLook::tokens() const {
  std::int64_t sum = 0;
  for (const SourceLook& s : train) sum += s.tokens;
  return sum;
}

bool DataLook::exact() const {
  return std::all_of(train.begin(), train.end(), [](const SourceLook& s) { return s.exact; });
}

std::int64_t DataLook::sequences(const DataSpec& spec) const {
  double sequences = 0;
  for (const SourceLook& s : train) {
    const bool apart = s.has_prompts && !spec.packing;
    sequences += apart
                     ? static_cast<double>(s.documents)
                     : std::ceil(static_cast<double>(s.tokens) / static_cast<double>(spec.seq_len));
  }
  if (spec.val_set_size < 1) sequences *= 1 - spec.val_set_size;
  return std::max<std::int64_t>(1, std::llround(sequences));
}

std::string DataLook::text() const {
  if (exact()) return fmt::format("{} tokens in {} documents", tokens(), documents());
  std::int64_t read = 0, total = 0;
  for (const SourceLook& s : train) {
    read += s.read_bytes;
    total += s.total_bytes;
  }
  return fmt::format("about {:.3g} M tokens in about {} documents, by the first {} of {}",
                     static_cast<double>(tokens()) / 1e6, documents(), format_bytes(read),
                     format_bytes(total));
}

DataLook look_at_data(const DataSpec& spec, const Tokenizer& tokenizer) {
  if (spec.train.empty()) throw_user("data.train: no source is given");
  DataLook look;
  for (const SourceSpec& source : spec.train) look.train.push_back(Look(source, tokenizer).take());
  for (const SourceSpec& source : spec.eval) static_cast<void>(Look(source, tokenizer).take());
  return look;
}

std::optional<std::string> refusal_of(const DataLook& look, const DataSpec& spec) {
  for (const SourceLook& s : look.train) {
    if (s.longest > spec.seq_len && fails_when_long(s, spec)) {
      return fmt::format(
          "{}: a sample of {} tokens is longer than data.seq_len = {}; raise it, or set "
          "data.excess_length_strategy to drop, truncate or split",
          s.name, s.longest, spec.seq_len);
    }
    if (s.exact && !s.has_prompts && s.tokens < spec.seq_len) {
      return fmt::format(
          "{}: {} tokens found, fewer than one sequence of data.seq_len = {}; add text or lower it",
          s.name, s.tokens, spec.seq_len);
    }
  }
  return std::nullopt;
}

}  // namespace thimble
