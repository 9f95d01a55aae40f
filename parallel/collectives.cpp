#include "parallel/collectives.h"

#include <algorithm>
#include <cstring>

#include "core/ops/ops.h"

namespace thimble {
namespace {

Bytes bytes_of(const Tensor& t) {
  return {static_cast<const std::byte*>(t.raw()), static_cast<std::size_t>(t.nbytes())};
}

MutableBytes writable_bytes_of(const Tensor& t) {
  return {static_cast<std::byte*>(t.raw()), static_cast<std::size_t>(t.nbytes())};
}

Tensor rows_of(const RowParts& part, int rank) {
  return part.tensor.rows(part.begin[rank_index(rank)], part.begin[rank_index(rank) + 1]);
}

// The shape of `ranks` times `rows` rows of t.
Shape stacked(const Tensor& t, std::int64_t rows) {
  return t.rank() == 1 ? Shape{rows} : Shape{rows, t.dim(1)};
}

// All elements of a part, and where the sums of this rank's go.
RowSum sum_of(const RowParts& part, MutableBytes mine) {
  RowSum sum{.all = bytes_of(part.tensor), .mine = mine, .begin = {}, .dtype = part.tensor.dtype()};
  const std::int64_t width = part.tensor.rank() == 1 ? 1 : part.tensor.dim(1);
  for (const std::int64_t begin : part.begin) sum.begin.push_back(begin * width);
  return sum;
}

}  // namespace

std::vector<std::byte> all_gather_control(Communicator& comm, const std::string& subject,
                                          Bytes mine) {
  const int ranks = comm.size();
  std::vector<std::byte> all(mine.size() * rank_index(ranks));
  if (!mine.empty())
    std::memcpy(all.data() + mine.size() * rank_index(comm.rank()), mine.data(), mine.size());
  if (ranks == 1) return all;
  Exchange exchange(ranks);
  for (int r = 0; r < ranks; ++r) {
    if (r == comm.rank()) continue;
    exchange.send[rank_index(r)] = {mine};
    exchange.receive[rank_index(r)] = {
        MutableBytes(all).subspan(mine.size() * rank_index(r), mine.size())};
  }
  comm.start({"all_gather", subject}, Purpose::kControl, std::move(exchange)).wait();
  return all;
}

std::vector<std::string> all_gather_texts(Communicator& comm, const std::string& subject,
                                          const std::string& mine) {
  const auto length = static_cast<std::int64_t>(mine.size());
  const auto bytes = all_gather_control(comm, subject, std::as_bytes(std::span(&length, 1)));
  std::vector<std::int64_t> lengths(rank_index(comm.size()));
  std::memcpy(lengths.data(), bytes.data(), bytes.size());
  const std::int64_t longest = *std::max_element(lengths.begin(), lengths.end());
  std::string padded = mine;
  padded.resize(static_cast<std::size_t>(longest));
  const auto all = all_gather_control(comm, subject, std::as_bytes(std::span(padded)));
  std::vector<std::string> texts;
  for (std::size_t r = 0; r < lengths.size(); ++r) {
    texts.emplace_back(reinterpret_cast<const char*>(all.data()) + r * padded.size(),
                       static_cast<std::size_t>(lengths[r]));
  }
  return texts;
}

std::string first_reason(Communicator& comm, const std::string& subject, const std::string& mine) {
  if (comm.size() == 1) return mine;
  constexpr std::size_t kBytes = 512;
  std::string padded = mine;
  padded.resize(kBytes);
  const auto all = all_gather_control(comm, subject, std::as_bytes(std::span(padded)));
  for (int r = 0; r < comm.size(); ++r) {
    const auto* text = reinterpret_cast<const char*>(all.data() + rank_index(r) * kBytes);
    if (*text != 0)
      return fmt::format("rank {}: {}", r, std::string_view(text, ::strnlen(text, kBytes)));
  }
  return {};
}

void barrier(Communicator& comm, const std::string& subject) {
  static_cast<void>(all_gather_control(comm, subject, {}));
}

void all_reduce(Communicator& comm, const std::string& subject, std::span<ExactSum> sums) {
  if (comm.size() == 1 || sums.empty()) return;
  std::vector<std::int64_t> words;
  for (ExactSum& sum : sums) words.insert(words.end(), sum.words().begin(), sum.words().end());
  const std::vector<std::byte> all =
      all_gather_control(comm, subject, std::as_bytes(std::span(words)));
  std::vector<std::int64_t> total(words.size()), part(words.size());
  for (int r = 0; r < comm.size(); ++r) {
    std::memcpy(part.data(), all.data() + rank_index(r) * words.size() * sizeof(std::int64_t),
                words.size() * sizeof(std::int64_t));
    for (std::size_t i = 0; i < total.size(); ++i) total[i] += part[i];
  }
  for (std::size_t i = 0; i < sums.size(); ++i) {
    sums[i] = ExactSum::from_words(
        std::span(total).subspan(i * ExactSum::kWords).first<ExactSum::kWords>());
  }
}

void all_reduce(Communicator& comm, Arena& arena, const std::string& subject,
                std::span<float> values) {
  const int ranks = comm.size();
  if (ranks == 1 || values.empty()) return;
  const auto part = [&](int r) {
    const std::size_t begin = values.size() * rank_index(r) / rank_index(ranks),
                      end = values.size() * rank_index(r + 1) / rank_index(ranks);
    return values.subspan(begin, end - begin);
  };
  const std::span<float> own = part(comm.rank());
  const Tensor received =
      Tensor::empty(arena, MemoryTag::kComm, DType::kF32,
                    Shape{ranks, static_cast<std::int64_t>(own.size())}, "parts of sums");
  const auto part_of = [&](int r) {
    return std::span(static_cast<float*>(received.raw()) + rank_index(r) * own.size(), own.size());
  };
  Exchange scatter(ranks), gather(ranks);
  for (int r = 0; r < ranks; ++r) {
    if (r == comm.rank()) continue;
    scatter.send[rank_index(r)] = {std::as_bytes(part(r))};
    scatter.receive[rank_index(r)] = {std::as_writable_bytes(part_of(r))};
    gather.send[rank_index(r)] = {std::as_bytes(own)};
    gather.receive[rank_index(r)] = {std::as_writable_bytes(part(r))};
  }
  comm.start({"all_reduce", subject}, Purpose::kControl, std::move(scatter)).wait();
  if (!received.device().planning) {
    std::copy(own.begin(), own.end(), part_of(comm.rank()).begin());
    std::copy(part_of(0).begin(), part_of(0).end(), own.begin());
    for (int r = 1; r < ranks; ++r) {
      for (std::size_t i = 0; i < own.size(); ++i) own[i] += part_of(r)[i];
    }
  }
  comm.start({"all_gather", subject}, Purpose::kControl, std::move(gather)).wait();
}

void broadcast(Communicator& comm, const std::string& subject, int root, MutableBytes bytes) {
  const int ranks = comm.size();
  if (ranks == 1) return;
  Exchange exchange(ranks);
  if (comm.rank() == root) {
    for (int r = 0; r < ranks; ++r) {
      if (r != root) exchange.send[rank_index(r)] = {bytes};
    }
  } else {
    exchange.receive[rank_index(root)] = {bytes};
  }
  comm.start({"broadcast", subject}, Purpose::kControl, std::move(exchange)).wait();
}

Completion start_all_gather(Communicator& comm, const OpLabel& label,
                            std::span<const RowParts> parts) {
  const int ranks = comm.size();
  if (ranks == 1) return {};
  Exchange exchange(ranks);
  for (const RowParts& part : parts) {
    const Tensor mine = rows_of(part, comm.rank());
    for (int r = 0; r < ranks; ++r) {
      if (r == comm.rank()) continue;
      exchange.send[rank_index(r)].push_back(bytes_of(mine));
      exchange.receive[rank_index(r)].push_back(writable_bytes_of(rows_of(part, r)));
    }
  }
  return comm.start(label, Purpose::kTensor, std::move(exchange));
}

RowReduction::RowReduction(Communicator& comm, Arena& arena, const OpLabel& label,
                           std::span<const RowParts> parts, const ReduceOptions& options)
    : rank_(comm.rank()), by_transport_(options.by_transport && comm.size() > 1) {
  const int ranks = comm.size();
  Exchange exchange(ranks);
  std::vector<RowSum> sums;
  for (const RowParts& part : parts) {
    Tensor contribution = part.tensor;
    if (ranks > 1 && contribution.dtype() != options.comm_dtype) {
      contribution = Tensor::empty(arena, MemoryTag::kComm, options.comm_dtype, part.tensor.shape(),
                                   "gradient as sent");
      ops::cast(contribution, part.tensor);
      buffer_bytes_ += contribution.nbytes();
    }
    sent_.push_back(contribution);  // until the others have it
    const RowParts sent{contribution, part.begin};
    const std::int64_t rows = part.begin[rank_index(rank_) + 1] - part.begin[rank_index(rank_)];
    Part mine{.own = rows_of(sent, rank_), .received = {}};
    if (ranks > 1 && rows > 0) {
      mine.received =
          Tensor::empty(arena, MemoryTag::kComm, options.comm_dtype,
                        stacked(contribution, by_transport_ ? rows : rows * (ranks - 1)),
                        "gradients of the other ranks");
      buffer_bytes_ += mine.received.nbytes();
    }
    if (by_transport_) {
      sums.push_back(sum_of(sent, rows > 0 ? writable_bytes_of(mine.received) : MutableBytes()));
    } else {
      for (int r = 0, place = 0; r < ranks; ++r) {
        if (r == rank_) continue;
        exchange.send[rank_index(r)].push_back(bytes_of(rows_of(sent, r)));
        exchange.receive[rank_index(r)].push_back(
            rows > 0 ? writable_bytes_of(mine.received.rows(place * rows, (place + 1) * rows))
                     : MutableBytes());
        ++place;
      }
    }
    parts_.push_back(std::move(mine));
  }
  if (by_transport_) {
    exchange_ = comm.start_sum(label, std::move(sums));
  } else if (ranks > 1) {
    exchange_ = comm.start(label, Purpose::kTensor, std::move(exchange));
  }
}

void RowReduction::finish(std::span<const GradTarget> targets) {
  exchange_.follow();
  for (std::size_t i = 0; i < parts_.size(); ++i) {
    const Part& part = parts_[i];
    const std::int64_t rows = part.own.dim(0);
    if (rows == 0) continue;
    std::vector<Tensor> pieces;
    const std::int64_t received = part.received.defined() ? part.received.dim(0) / rows : 0;
    for (std::int64_t r = 0; r < received; ++r)
      pieces.push_back(part.received.rows(r * rows, (r + 1) * rows));
    if (!by_transport_) pieces.insert(pieces.begin() + rank_, part.own);
    ops::sum_in_order(targets[i].tensor, pieces, targets[i].accumulate);
  }
  parts_.clear();
  sent_.clear();
  buffer_bytes_ = 0;
}

}  // namespace thimble
