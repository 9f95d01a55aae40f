#include "launcher/convert/array_runs.h"

#include <algorithm>
#include <cstring>

#include "core/base/error.h"
#include "core/base/numeric.h"

namespace thimble {
namespace {

class RunsReader final : public ArrayReader {
 public:
  RunsReader(std::int64_t size, std::vector<ArrayRun> runs) : size_(size), runs_(std::move(runs)) {}

  void read(std::int64_t first, std::span<std::byte> out) const override {
    const std::int64_t end = first + narrow<std::int64_t>(out.size()) / size_;
    const auto place = [&](std::int64_t from, std::int64_t to) {
      return out.subspan(static_cast<std::size_t>((from - first) * size_),
                         static_cast<std::size_t>((to - from) * size_));
    };
    auto run = std::partition_point(runs_.begin(), runs_.end(),
                                    [&](const ArrayRun& r) { return r.place + r.count <= first; });
    std::int64_t done = first;
    for (; run != runs_.end() && run->place < end; ++run) {
      const std::int64_t from = std::max(first, run->place),
                         to = std::min(end, run->place + run->count);
      const auto gap = place(done, from);
      std::memset(gap.data(), 0, gap.size());
      read_elements(run->from, run->begin + from - run->place, place(from, to));
      done = to;
    }
    const auto rest = place(done, end);
    std::memset(rest.data(), 0, rest.size());
  }

 private:
  // Any elements of an array, which itself reads whole rows only.
  void read_elements(const StoredArray& array, std::int64_t begin, std::span<std::byte> out) const {
    const std::int64_t row = array.row();
    while (!out.empty()) {
      const std::int64_t left = narrow<std::int64_t>(out.size()) / size_, in_row = begin % row;
      std::int64_t taken = left / row * row;
      if (in_row == 0 && taken > 0) {
        array.reader->read(begin, out.first(static_cast<std::size_t>(taken * size_)));
      } else {
        taken = std::min(left, row - in_row);
        std::vector<std::byte> whole(static_cast<std::size_t>(row * size_));
        array.reader->read(begin - in_row, whole);
        std::memcpy(out.data(), whole.data() + in_row * size_,
                    static_cast<std::size_t>(taken * size_));
      }
      out = out.subspan(static_cast<std::size_t>(taken * size_));
      begin += taken;
    }
  }

  std::int64_t size_;
  std::vector<ArrayRun> runs_;
};

}  // namespace

StoredArray array_of_runs(std::string name, DType dtype, std::int64_t numel,
                          std::vector<ArrayRun> runs) {
  std::int64_t end = 0;
  for (const ArrayRun& run : runs) {
    TH_CHECK(run.from.dtype == dtype && run.place >= end && run.count >= 0 && run.begin >= 0 &&
                 run.begin + run.count <= run.from.numel(),
             "a run of {} does not fit", run.from.name);
    end = run.place + run.count;
  }
  TH_CHECK(end <= numel, "{} elements in an array of {}", end, numel);
  auto reader = std::make_shared<RunsReader>(dtype_size(dtype), std::move(runs));
  return {.name = std::move(name), .dtype = dtype, .shape = {numel}, .reader = std::move(reader)};
}

}  // namespace thimble
