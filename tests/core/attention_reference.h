// Causal grouped-query attention and its gradients in f64, one query at a time, straight from the
// definition.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "core/ops/ops.h"

namespace thimble {

/// Inputs as f64, in the layout of ops::attention.
struct ReferenceAttention {
  ops::AttentionShape shape;
  std::int64_t tq = 0, tk = 0;
  std::vector<double> q, k, v, dout;
  std::vector<std::int32_t> segment_start;

  std::vector<double> out, lse, dq, dk, dv;

  void run() {
    out.assign(q.size(), 0);
    dq.assign(q.size(), 0);
    dk.assign(k.size(), 0);
    dv.assign(v.size(), 0);
    lse.assign(static_cast<std::size_t>(shape.batch * shape.heads * tq), 0);
    for (std::int64_t b = 0; b < shape.batch; ++b) {
      for (std::int64_t h = 0; h < shape.heads; ++h) {
        for (std::int64_t i = 0; i < tq; ++i) query(b, h, i);
      }
    }
  }

 private:
  // A row of one head, as an offset.
  std::size_t query_at(std::int64_t b, std::int64_t h, std::int64_t i) const {
    return static_cast<std::size_t>(((b * tq + i) * shape.heads + h) * shape.head_dim);
  }
  std::size_t key_at(std::int64_t b, std::int64_t h, std::int64_t j) const {
    const std::int64_t kv_head = h / (shape.heads / shape.kv_heads);
    return static_cast<std::size_t>(((b * tk + j) * shape.kv_heads + kv_head) * shape.head_dim);
  }
  double dot(const std::vector<double>& a, std::size_t at, const std::vector<double>& b,
             std::size_t bt) const {
    double sum = 0;
    for (std::size_t c = 0; c < static_cast<std::size_t>(shape.head_dim); ++c)
      sum += a[at + c] * b[bt + c];
    return sum;
  }
  void add(std::vector<double>& to, std::size_t at, double factor, const std::vector<double>& from,
           std::size_t from_at) const {
    for (std::size_t c = 0; c < static_cast<std::size_t>(shape.head_dim); ++c)
      to[at + c] += factor * from[from_at + c];
  }

  void query(std::int64_t b, std::int64_t h, std::int64_t i) {
    const std::int64_t index = i + tk - tq;
    std::int64_t first = segment_start[static_cast<std::size_t>(b * tq + i)];
    if (shape.window > 0) first = std::max(first, index - shape.window + 1);
    const std::size_t at = query_at(b, h, i);
    const double scale = static_cast<double>(shape.scale);
    std::vector<double> p;
    std::vector<double> slope;  // of each score by the product
    const double cap = static_cast<double>(shape.softcap);
    for (std::int64_t j = first; j <= index; ++j) {
      p.push_back(scale * dot(q, at, k, key_at(b, h, j)));
      slope.push_back(scale);
      if (cap == 0) continue;
      const double t = std::tanh(p.back() / cap);
      p.back() = cap * t;
      slope.back() *= 1 - t * t;
    }
    const double top = *std::max_element(p.begin(), p.end());
    double sum = 0;
    for (double& x : p) sum += x = std::exp(x - top);
    for (double& x : p) x /= sum;
    lse[static_cast<std::size_t>((b * shape.heads + h) * tq + i)] = top + std::log(sum);
    const auto key = [&](std::size_t j) {
      return key_at(b, h, first + static_cast<std::int64_t>(j));
    };
    for (std::size_t j = 0; j < p.size(); ++j) add(out, at, p[j], v, key(j));
    if (dout.empty()) return;
    const double delta = dot(dout, at, out, at);
    for (std::size_t j = 0; j < p.size(); ++j) {
      const double ds = slope[j] * p[j] * (dot(dout, at, v, key(j)) - delta);
      add(dv, key(j), p[j], dout, at);
      add(dq, at, ds, k, key(j));
      add(dk, key(j), ds, q, at);
    }
  }
};

}  // namespace thimble
