r"""Placements for several steps: the models of :mod:`eplb_opt.problem.objective` over m_1 .. m_T.

All have the same three parts.

**The objective** in integers (:class:`.linear.Terms`): over the makespans m_t

    mean     sum of m_t / T
    worst    eta,                                          m_t <= eta
    cvar:p/q (p T eta + q sum of (m_t - eta)+) / (p T)     (Rockafellar and Uryasev 2000)

**The rule**: z[k,n] = 1 where node n takes group k; under the global rule all experts are one group
on one node.

    sum_n z[k,n] = 1,  sum_k z[k,n] = K / N              whole groups, equally many
    z[k,n] <= sum_{j<k} z[j,n-1]                         nodes are interchangeable

Under the rule ``home`` z[k,n] = 1 where group k is at home; replicas are anywhere, one at home
(:mod:`.homes`, with the limit of traffic).

**The makespans**, by dispatch. ``even`` (counts decide what a replica weighs):

    sum_k y[e,k] = 1,  sum_g n[e,k,g] = k y[e,k]         a count for every expert, replicas placed
    sum_{e,k} n[e,k,g] = S                               every rank is full
    sum_{e,k} (w[t,e] / k) n[e,k,g] <= m_t               loads of the ranks

``optimal`` (x[e,g] = 1 where rank g holds expert e; a second copy there is worth nothing):

    sum_g x[e,g] >= 1,  sum_e x[e,g] = min(S, experts of the node)
    sum_g f[t,e,g] = w[t,e],  f[t,e,g] <= w[t,e] x[e,g]  tokens go where the expert is
    sum_e f[t,e,g] <= m_t

``fixed``: the same x with shares s[e,g] of all steps,

    sum_g s[e,g] = 1,  s[e,g] <= x[e,g],  sum_e w[t,e] s[e,g] <= m_t

:mod:`.cp_sat` and :mod:`.mip` are these extensive forms; :mod:`.cuts` has no flows, but the
inequalities that follow from them, added where they are violated.

Reference: Rockafellar and Uryasev, J. Risk 2 (2000) 21; Birge and Louveaux, Introduction to
Stochastic Programming (2011), ch. 5 (extensive form and L-shaped method).
"""
