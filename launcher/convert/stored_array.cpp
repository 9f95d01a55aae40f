#include "launcher/convert/stored_array.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "core/base/error.h"
#include "core/base/numeric.h"
#include "core/base/text.h"
#include "core/ops/kernel_table.h"

namespace thimble {
namespace {

constexpr std::int64_t kMaxElements = std::int64_t{1} << 48;
constexpr std::int64_t kReadAheadBytes = kMiB;
constexpr std::int64_t kCastElements = std::int64_t{1} << 18;

// Elements [begin, end) of an array that a read has filled.
struct Filled {
  std::int64_t begin, end;
};

// Short runs that follow each other closely in a file, read together.
class ReadAhead {
 public:
  explicit ReadAhead(const File& file) : file_(file) {}
  // `limit`: bytes of the file from `offset` on that may be read.
  void read(std::int64_t offset, std::span<std::byte> out, std::int64_t limit) {
    const auto bytes = narrow<std::int64_t>(out.size());
    if (bytes >= kReadAheadBytes / 4) return file_.read_at(offset, out);
    if (offset < begin_ || offset + bytes > begin_ + narrow<std::int64_t>(buffer_.size())) {
      begin_ = offset;
      buffer_.resize(static_cast<std::size_t>(std::min(kReadAheadBytes, limit)));
      file_.read_at(offset, buffer_);
    }
    std::memcpy(out.data(), buffer_.data() + (offset - begin_), out.size());
  }

 private:
  const File& file_;
  std::int64_t begin_ = 0;
  std::vector<std::byte> buffer_;
};

// A piece as runs that are contiguous in the array and in the file.
struct Runs {
  std::int64_t length = 1;  // elements of a run
  std::size_t outer = 0;    // dimensions that are counted over; the others are within a run
  std::int64_t count = 1;

  Runs(const ArrayPiece& piece, const Extents& frame) {
    outer = frame.size();
    while (outer > 0) {
      const std::size_t i = outer - 1;
      if (piece.extent[i] != 1 && piece.strides[i] != length) break;
      length *= piece.extent[i];
      --outer;
      if (piece.extent[i] != frame[i]) break;
    }
    for (std::size_t i = 0; i < outer; ++i) count *= piece.extent[i];
  }
};

class PiecesReader final : public ArrayReader {
 public:
  PiecesReader(std::string name, std::int64_t size, Extents frame, std::vector<ArrayPiece> pieces)
      : name_(std::move(name)), size_(size), frame_(std::move(frame)), pieces_(std::move(pieces)) {
    weights_ = row_major_strides(frame_);
    std::erase_if(pieces_, [](const ArrayPiece& p) {
      return std::find(p.extent.begin(), p.extent.end(), 0) != p.extent.end();
    });
    std::sort(pieces_.begin(), pieces_.end(), [this](const ArrayPiece& a, const ArrayPiece& b) {
      return position(a, a.begin) < position(b, b.begin);
    });
  }

  void read(std::int64_t first, std::span<std::byte> out) const override {
    const std::int64_t end = first + narrow<std::int64_t>(out.size()) / size_;
    std::vector<Filled> filled;
    for (const ArrayPiece& piece : pieces_) {
      if (position(piece, piece.begin) >= end) break;
      if (is_transposed(piece)) {
        read_transposed(piece, first, out);
        filled.push_back({first, end});
      } else {
        read_runs(piece, first, out, filled);
      }
    }
    check(filled, first, end);
  }

 private:
  std::int64_t position(const ArrayPiece&, const Extents& at) const {
    return std::inner_product(at.begin(), at.end(), weights_.begin(), std::int64_t{0});
  }

  // The whole of a matrix, stored by columns.
  bool is_transposed(const ArrayPiece& piece) const {
    return frame_.size() == 2 && piece.extent == frame_ && piece.strides[0] == 1 &&
           piece.strides[1] == frame_[0] && frame_[0] > 1 && frame_[1] > 1;
  }

  // Places of run number `run`: in the array, and in the file relative to the piece.
  std::pair<std::int64_t, std::int64_t> place(const ArrayPiece& piece, const Runs& runs,
                                              std::int64_t run) const {
    std::int64_t in_array = position(piece, piece.begin), in_file = 0;
    for (std::size_t i = runs.outer; i-- > 0;) {
      const std::int64_t index = run % piece.extent[i];
      run /= piece.extent[i];
      in_array += index * weights_[i];
      in_file += index * piece.strides[i];
    }
    return {in_array, in_file};
  }

  void read_runs(const ArrayPiece& piece, std::int64_t first, std::span<std::byte> out,
                 std::vector<Filled>& filled) const {
    const std::int64_t end = first + narrow<std::int64_t>(out.size()) / size_;
    const Runs runs(piece, frame_);
    std::int64_t low = 0, high = runs.count;  // the first run that ends after `first`
    while (low < high) {
      const std::int64_t middle = low + (high - low) / 2;
      if (place(piece, runs, middle).first + runs.length > first) {
        high = middle;
      } else {
        low = middle + 1;
      }
    }
    ReadAhead ahead(*piece.file);
    const std::int64_t last = piece_elements(piece);
    for (std::int64_t run = low; run < runs.count; ++run) {
      const auto [in_array, in_file] = place(piece, runs, run);
      if (in_array >= end) break;
      const std::int64_t begin = std::max(first, in_array);
      const std::int64_t stop = std::min(end, in_array + runs.length);
      const std::int64_t at = in_file + (begin - in_array);
      ahead.read(piece.offset + at * size_,
                 out.subspan(static_cast<std::size_t>((begin - first) * size_),
                             static_cast<std::size_t>((stop - begin) * size_)),
                 (last - at) * size_);
      if (!filled.empty() && filled.back().end == begin) {
        filled.back().end = stop;
      } else {
        filled.push_back({begin, stop});
      }
    }
  }

  // Elements of the file from the piece's first to its last.
  static std::int64_t piece_elements(const ArrayPiece& piece) {
    std::int64_t last = 1;
    for (std::size_t i = 0; i < piece.extent.size(); ++i)
      last += (piece.extent[i] - 1) * piece.strides[i];
    return last;
  }

  // Every column of the wanted rows is one run in the file; all of them are one if all rows are
  // wanted.
  void read_transposed(const ArrayPiece& piece, std::int64_t first,
                       std::span<std::byte> out) const {
    const std::int64_t rows = frame_[0], cols = frame_[1];
    const std::int64_t begin = first / cols;
    const std::int64_t count = narrow<std::int64_t>(out.size()) / size_ / cols;
    TH_CHECK(first % cols == 0 && count * cols * size_ == narrow<std::int64_t>(out.size()));
    const std::int64_t group =
        count == rows ? std::max<std::int64_t>(1, kReadAheadBytes / (rows * size_)) : 1;
    std::vector<std::byte> columns(static_cast<std::size_t>(std::min(group, cols) * count * size_));
    const auto size = static_cast<std::size_t>(size_);
    for (std::int64_t c = 0; c < cols; c += group) {
      const std::int64_t width = std::min(group, cols - c);
      piece.file->read_at(
          piece.offset + (c * rows + begin) * size_,
          std::span(columns).first(static_cast<std::size_t>(width * count * size_)));
      for (std::int64_t r = 0; r < count; ++r) {
        for (std::int64_t i = 0; i < width; ++i) {
          std::memcpy(out.data() + (r * cols + c + i) * size_,
                      columns.data() + (i * count + r) * size_, size);
        }
      }
    }
  }

  void check(std::vector<Filled>& filled, std::int64_t first, std::int64_t end) const {
    std::sort(filled.begin(), filled.end(),
              [](const Filled& a, const Filled& b) { return a.begin < b.begin; });
    std::int64_t done = first;
    for (const Filled& f : filled) {
      if (f.begin < done)
        throw_user("{}: elements {} to {} are stored twice", name_, f.begin, std::min(done, f.end));
      if (f.begin > done) throw_user("{}: elements {} to {} are missing", name_, done, f.begin);
      done = f.end;
    }
    if (done < end) throw_user("{}: elements {} to {} are missing", name_, done, end);
  }

  std::string name_;
  std::int64_t size_;
  Extents frame_, weights_;
  std::vector<ArrayPiece> pieces_;
};

class NumberReader final : public ArrayReader {
 public:
  explicit NumberReader(float value) : value_(value) {}
  void read(std::int64_t, std::span<std::byte> out) const override {
    TH_CHECK_EQ(out.size(), sizeof(float));
    std::memcpy(out.data(), &value_, sizeof(float));
  }

 private:
  float value_;
};

// Another dtype of an array, converted a part at a time.
class CastReader final : public ArrayReader {
 public:
  CastReader(StoredArray from, DType to) : from_(std::move(from)), to_(to) {}

  void read(std::int64_t first, std::span<std::byte> out) const override {
    const std::int64_t row = from_.row(), from = dtype_size(from_.dtype), to = dtype_size(to_);
    const std::int64_t count = narrow<std::int64_t>(out.size()) / to;
    const std::int64_t step = std::max<std::int64_t>(1, kCastElements / row) * row;
    std::vector<std::byte> part(static_cast<std::size_t>(std::min(step, count) * from));
    for (std::int64_t at = 0; at < count; at += step) {
      const std::int64_t n = std::min(step, count - at);
      from_.reader->read(first + at, std::span(part).first(static_cast<std::size_t>(n * from)));
      kernels(Device{}).cast(out.data() + at * to, to_, part.data(), from_.dtype, n);
    }
  }

 private:
  StoredArray from_;
  DType to_;
};

}  // namespace

std::int64_t checked_numel(const Extents& shape, std::string_view what) {
  std::int64_t numel = 1;
  for (const std::int64_t size : shape) {
    if (size < 0 || (size > 0 && numel > kMaxElements / size)) {
      throw_user("{}: no array can have the shape [{}]", printable(what, 200),
                 fmt::join(shape, ", "));
    }
    numel *= size;
  }
  return numel;
}

Extents row_major_strides(const Extents& shape) {
  Extents strides(shape.size(), 1);
  for (std::size_t i = shape.size(); i-- > 1;)
    strides[i - 1] = strides[i] * std::max<std::int64_t>(1, shape[i]);
  return strides;
}

std::int64_t StoredArray::numel() const {
  return std::accumulate(shape.begin(), shape.end(), std::int64_t{1}, std::multiplies<>());
}

std::int64_t StoredArray::row() const {
  return shape.empty() || shape[0] == 0 ? 1 : std::max<std::int64_t>(1, numel() / shape[0]);
}

StoredArray array_of_pieces(std::string name, DType dtype, Extents shape,
                            std::vector<ArrayPiece> pieces) {
  const std::int64_t numel = checked_numel(shape, name);
  const bool is_flat = !pieces.empty() && pieces[0].begin.size() == 1 && shape.size() != 1;
  const Extents frame = is_flat ? Extents{numel} : shape;
  std::int64_t held = 0;
  for (const ArrayPiece& piece : pieces) {
    bool fits = piece.begin.size() == frame.size() && piece.extent.size() == frame.size() &&
                piece.strides.size() == frame.size();
    for (std::size_t i = 0; fits && i < frame.size(); ++i) {
      fits = piece.begin[i] >= 0 && piece.begin[i] <= frame[i] && piece.extent[i] >= 0 &&
             piece.extent[i] <= frame[i] - piece.begin[i];
    }
    if (!fits) {
      throw_user("{}: its part at [{}] of sizes [{}] does not lie in its shape [{}]", name,
                 fmt::join(piece.begin, ", "), fmt::join(piece.extent, ", "),
                 fmt::join(shape, ", "));
    }
    held += checked_numel(piece.extent, name);
  }
  if (held != numel) {
    throw_user("{}: its shape [{}] has {} elements, and its parts have {}; is a file missing?",
               name, fmt::join(shape, ", "), numel, held);
  }
  auto reader = std::make_shared<PiecesReader>(name, dtype_size(dtype), frame, std::move(pieces));
  return {.name = std::move(name), .dtype = dtype, .shape = std::move(shape), .reader = reader};
}

StoredArray number_array(float value) {
  return {.name = "a number", .reader = std::make_shared<NumberReader>(value)};
}

StoredArray as_dtype(const StoredArray& array, DType dtype) {
  if (array.dtype == dtype) return array;
  StoredArray out = array;
  out.dtype = dtype;
  out.reader = std::make_shared<CastReader>(array, dtype);
  return out;
}

}  // namespace thimble
